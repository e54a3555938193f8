//! A machine's options from a file, TOML or JSON, and back.

use std::ffi::OsStr;
use std::path::Path;

use serde_json::{Map, Value};

use super::RunArgs;
use crate::plain::plain;
use crate::{Error, Result};

/// What fails when an option's value is no text, as a path may be.
const WRITE: &str = "write the options as a file";

/// Reads a file: JSON if its name ends so, else TOML.
pub fn read(path: &Path) -> Result<RunArgs> {
    let text = std::fs::read_to_string(path).map_err(Error::file("read", "configuration", path))?;
    parse(&text, path.extension() == Some(OsStr::new("json")))
        .map_err(|(line, reason)| Error::Usage(format!("{}:{line}: {reason}", path.display())))
}

/// Reads a text; an error is a line's number from 1 and what is wrong there.
pub fn parse(text: &str, json: bool) -> std::result::Result<RunArgs, (usize, String)> {
    if json {
        return serde_json::from_str(text).map_err(|error| {
            let message = error.to_string();
            let reason = message.split(" at line ").next().unwrap_or(&message);
            (error.line(), one_line(reason))
        });
    }
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.unwrap_or_default().matches('\n').count() + 1;
        (line, one_line(error.message()))
    })
}

/// A message may have a key of the file in it, with whatever is in that.
fn one_line(message: &str) -> String {
    plain(&message.replace('\n', "; "))
}

/// What `flags` say, and where they are silent what the `file` says. A list, as of
/// disks, is one value: flags replace it.
pub fn overlay(flags: &RunArgs, file: &RunArgs) -> Result<RunArgs> {
    let fail = Error::system("combine the file's options with the command line's");
    let mut merged = serde_json::to_value(file).map_err(fail)?;
    let flags = serde_json::to_value(flags).map_err(fail)?;
    if let (Value::Object(merged), Value::Object(mut flags)) = (&mut merged, flags) {
        let mut memory = merged.remove("memory").unwrap_or_default();
        overlay_memory(merged, &mut memory, &mut flags);
        merged.extend(flags);
        if memory.is_object() {
            merged.insert("memory".into(), memory);
        }
    }
    serde_json::from_value(merged).map_err(fail)
}

/// The memory's size has two options: whichever flag gives it wins over both of the file.
fn overlay_memory(
    merged: &mut Map<String, Value>,
    memory: &mut Value,
    flags: &mut Map<String, Value>,
) {
    let more = flags.remove("memory").unwrap_or_default();
    if flags.contains_key("mem")
        && let Value::Object(memory) = memory
    {
        memory.remove("size");
    }
    if more.get("size").is_some() {
        merged.remove("mem");
    }
    match (memory, more) {
        (Value::Object(memory), Value::Object(more)) => memory.extend(more),
        (memory, more @ Value::Object(_)) => *memory = more,
        _ => {}
    }
}

/// The options as a file, for a later run.
pub fn write(args: &RunArgs, json: bool) -> Result<String> {
    if json {
        let mut text = serde_json::to_string_pretty(args).map_err(Error::system(WRITE))?;
        text.push('\n');
        return Ok(text);
    }
    toml::to_string(args)
        .map_err(std::io::Error::other)
        .map_err(Error::system(WRITE))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOML: &str = "\
        kernel = \"bzImage\"\n\
        name = \"web\"\n\
        cpus = 4\n\
        mem = \"1G\"\n\
        pv = \"qemu\"\n\
        rng = true\n\
        vsock = \"cid=3,socket=/run/v\"\n\
        console = \"file=/a,limit=64K\"\n\
        seccomp = \"log\"\n\
        uid = 1\n\
        gid = 2\n\
        chroot = \"/empty\"\n\
        disk = [\"a.img\", \"b.img,ro\"]\n\
        net = [\"tap=vm0,mac=02:00:00:00:00:01\"]\n";

    #[test]
    fn both_formats_hold_every_option() {
        let mut args = parse(TOML, false).unwrap().or_default();
        let table = "[[disk]]\npath = \"c,img\"\ndiscard = false\ndirect = \"on\"\nid = \"c\"\n";
        let more = parse(table, false).unwrap().disks;
        assert_eq!(more[0].to_string(), "path=c,,img,discard=off,direct,id=c");
        args.disks.extend(more);
        for json in [false, true] {
            let text = write(&args, json).unwrap();
            assert_eq!(parse(&text, json).unwrap(), args, "{text}");
        }
    }

    #[test]
    fn errors_tell_the_line() {
        for (text, line, word) in [
            ("cpus = 1\nmem = \"1K\"\n", 2, "such as 256M"),
            ("\n\ncores = 1\n", 3, "unknown field `cores`"),
            ("cpus = 0\n", 1, "1 to 255"),
            ("cpus = 1\ncpus = 2\n", 2, "duplicate key"),
            ("gid = 1\nuid = 0\n", 2, "gives nothing up"),
            ("disk = [\n\"a\",\n7]\n", 3, "expected a text such as"),
            (
                "cpus = 1\n[[disk]]\npath = \"a\"\nrw = true\n",
                4,
                "unknown field `rw`",
            ),
            ("[[disk]]\nro = true\n", 1, "missing field `path`"),
            ("disk = [{path = \"a\",\nid = \"a b\"}]\n", 2, "is no id"),
            ("name = \"../x\"", 1, "is no name"),
            ("kernel = \"a", 1, "invalid"),
        ] {
            let (found, reason) = parse(text, false).unwrap_err();
            assert_eq!(found, line, "{text}: {reason}");
            assert!(reason.contains(word), "{text}: {reason}");
            assert!(!reason.contains('\n'), "{reason}");
        }
        for (text, line, word) in [
            ("{\n\"mem\": \"1K\"\n}", 2, "such as 256M"),
            ("{\"cores\": 1}", 1, "unknown field `cores`"),
            ("{", 1, "EOF"),
        ] {
            let (found, reason) = parse(text, true).unwrap_err();
            assert_eq!(found, line, "{text}: {reason}");
            assert!(reason.contains(word), "{text}: {reason}");
        }
    }

    #[test]
    fn the_memory_of_flags_and_file_is_one() {
        for (file, flags, expected) in [
            ("mem = \"1G\"", "mem = \"2G\"", "mem = \"2G\""),
            ("mem = \"1G\"", "memory = \"2G\"", "memory = \"2G\""),
            (
                "memory = \"1G,ksm\"",
                "mem = \"2G\"",
                "mem = \"2G\"\nmemory = \"ksm\"",
            ),
            (
                "mem = \"1G\"",
                "memory = \"ksm\"",
                "mem = \"1G\"\nmemory = \"ksm\"",
            ),
            (
                "memory = \"1G,ksm\"",
                "memory = \"ksm=off,thp\"",
                "memory = \"1G,ksm=off,thp\"",
            ),
            ("memory = \"1G,ksm\"", "", "memory = \"1G,ksm\""),
        ] {
            let [file, flags, expected] = [file, flags, expected].map(|t| parse(t, false).unwrap());
            assert_eq!(overlay(&flags, &file).unwrap(), expected);
        }
        let twice = parse("kernel = \"k\"\nmem = \"1G\"\nmemory = \"1G\"", false).unwrap();
        let error = crate::config::Config::try_from(twice).unwrap_err();
        assert!(error.to_string().contains("twice"), "{error}");
    }

    #[test]
    fn flags_win() {
        let file = parse(TOML, false).unwrap();
        let flags = RunArgs {
            cpus: "2".parse().ok(),
            disks: vec!["c.img".parse().unwrap()],
            rng: Some(false),
            ..RunArgs::default()
        };
        let merged = overlay(&flags, &file).unwrap();
        let expected = RunArgs {
            cpus: flags.cpus,
            disks: flags.disks.clone(),
            rng: flags.rng,
            ..file
        };
        assert_eq!(merged, expected);
    }
}
