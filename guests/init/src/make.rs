//! A parallel build: make with as many jobs as vCPUs compiles a C project with tcc,
//! all from Debian, again and again. The program that comes out has to print what
//! the project's functions give when they are computed here.

use std::fmt::Write;
use std::fs;

use crate::protocol::{Go, Outcome};
use crate::shell::quiet;
use crate::{Error, Result, repeat};

const MAKE: &str = "/usr/bin/make";
const COMPILER: &str = "/usr/bin/tcc";
const FOLDER: &str = "/tmp/project";
/// C files, and functions in each.
const FILES: u32 = 24;
const FUNCTIONS: u32 = 30;
/// Times that a function repeats its step.
const STEPS: u32 = 3;

/// Writes the project; the workload then counts compiled files.
pub fn prepare() -> Result<impl FnOnce(&Go) -> Result<Outcome>> {
    write_project()?;
    let expected = expected();
    Ok(move |go: &Go| {
        let files = (f64::from(FILES), "files/s");
        repeat::run(go, files, |_, _| build(go.clients, expected))
    })
}

/// Builds the project from nothing and runs its program.
fn build(jobs: u32, expected: u32) -> Result<()> {
    for name in (0..FILES).map(|f| format!("f{f}.o")).chain(["all".into()]) {
        let path = format!("{FOLDER}/{name}");
        if fs::exists(&path).unwrap_or(false) {
            fs::remove_file(&path).map_err(Error::os("remove what was built"))?;
        }
    }
    quiet(MAKE, &["-s", "-C", FOLDER, &format!("-j{jobs}")])?;
    let said = quiet(&format!("{FOLDER}/all"), &[])?;
    if said.trim().parse() == Ok(expected) {
        return Ok(());
    }
    Err(Error::Workload(format!(
        "the program that was built said {said:?}, not {expected}"
    )))
}

/// The constants of a function.
fn constants(file: u32, function: u32) -> (u32, u32) {
    let number = 1 ^ (file << 16) ^ function;
    let mixed = number.wrapping_mul(0x9e37_79b1).rotate_left(13);
    (mixed | 1, mixed.wrapping_mul(0x85eb_ca6b))
}

/// What the whole project computes.
fn expected() -> u32 {
    let all = (0..FILES).flat_map(|file| (0..FUNCTIONS).map(move |f| (file, f)));
    all.fold(1, |value, (file, function)| {
        let (factor, term) = constants(file, function);
        (0..STEPS).fold(value, |v, step| {
            v.wrapping_mul(factor).wrapping_add(term).wrapping_add(step)
        })
    })
}

fn write_project() -> Result<()> {
    let files: Vec<String> = (0..FILES).map(|f| format!("f{f}.o")).collect();
    let objects = files.join(" ");
    let makefile = format!(
        "all: {objects}\n\t{COMPILER} -o $@ {objects}\n%.o: %.c\n\t{COMPILER} -c -o $@ $<\n"
    );
    let write = |name: &str, text: &str| {
        fs::write(format!("{FOLDER}/{name}"), text).map_err(Error::os("write the project"))
    };
    fs::create_dir_all(FOLDER).map_err(Error::os("make the project's folder"))?;
    write("Makefile", &makefile)?;
    (0..FILES).try_for_each(|file| write(&format!("f{file}.c"), &source(file)))
}

/// A C file: its functions, one that calls them in turn, and in the first `main`.
fn source(file: u32) -> String {
    let mut text = String::from("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n");
    let mut calls = String::new();
    for function in 0..FUNCTIONS {
        let (factor, term) = constants(file, function);
        // Writing to a string can't fail.
        let _ = write!(
            text,
            "static unsigned g{function}(unsigned v)\n{{\n\tunsigned step;\n\n\
             \tfor (step = 0; step < {STEPS}; step++)\n\
             \t\tv = v * {factor}u + {term}u + step;\n\treturn v;\n}}\n\n"
        );
        let _ = writeln!(calls, "\tv = g{function}(v);");
    }
    let _ = write!(
        text,
        "unsigned f{file}(unsigned v)\n{{\n{calls}\treturn v;\n}}\n"
    );
    if file == 0 {
        for other in 1..FILES {
            let _ = writeln!(text, "unsigned f{other}(unsigned v);");
        }
        let calls: String = (0..FILES).map(|f| format!("\tv = f{f}(v);\n")).collect();
        let _ = write!(
            text,
            "\nint main(void)\n{{\n\tunsigned v = 1;\n\n{calls}\tprintf(\"%u\\n\", v);\n\treturn 0;\n}}\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sources_have_the_constants_that_the_result_comes_from() {
        let (factor, term) = constants(3, 2);
        assert!(source(3).contains(&format!("v * {factor}u + {term}u")));
    }
}
