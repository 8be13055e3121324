//! Compiles src/sys/spawn.c for the server's end.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "server")]
    spawn();
}

#[cfg(feature = "server")]
fn spawn() {
    println!("cargo:rerun-if-changed=src/sys/spawn.c");
    let compiled = cc::Build::new()
        .file("src/sys/spawn.c")
        .warnings(true)
        .extra_warnings(true)
        .warnings_into_errors(true)
        // The parent's frame is shared until the exec: no guard page tricks,
        // no instrumentation that would write to it.
        .flag_if_supported("-fno-stack-protector")
        .try_compile("forkpty_spawn");
    if let Err(error) = compiled {
        eprintln!("\nforkptyrouter: {error}\n");
        std::process::exit(1);
    }
}
