//! Compiles the BPF program by clang, and makes its skeleton.

use std::path::PathBuf;

use libbpf_cargo::SkeletonBuilder;

const FOLDER: &str = "bpf";
const SOURCE: &str = "bpf/vmfirst.bpf.c";

fn main() {
    println!("cargo:rerun-if-changed={FOLDER}");
    println!("cargo:rerun-if-env-changed=BPF_CLANG");
    let Some(out) = std::env::var_os("OUT_DIR").map(PathBuf::from) else {
        fail("cargo sets no OUT_DIR");
    };
    let mut builder = SkeletonBuilder::new();
    if let Some(clang) = std::env::var_os("BPF_CLANG") {
        builder.clang(clang);
    }
    let built = builder
        .source(SOURCE)
        .clang_args(["-mcpu=v3", "-Wall", "-Werror", "-D__TARGET_ARCH_x86"])
        .build_and_generate(out.join("vmfirst.skel.rs"));
    if let Err(error) = built {
        fail(&format!(
            "{SOURCE} does not compile: {error:#}; it takes clang 14 or newer (Debian: \
             apt install clang; another one by BPF_CLANG)"
        ));
    }
}

fn fail(why: &str) -> ! {
    eprintln!("{why}");
    std::process::exit(1);
}
