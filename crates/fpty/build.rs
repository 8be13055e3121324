//! Compiles src/sys/spawn.c for the server's end; and lets the command depend
//! on nothing but the C library.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "server")]
    let built = spawn().and_then(|()| alone());
    #[cfg(not(feature = "server"))]
    let built = alone();
    if let Err(error) = built {
        eprintln!("\nforkptyrouter: {error}\n");
        std::process::exit(1);
    }
}

#[cfg(feature = "server")]
fn spawn() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=src/sys/spawn.c");
    cc::Build::new()
        .file("src/sys/spawn.c")
        .warnings(true)
        .extra_warnings(true)
        .warnings_into_errors(true)
        // The child runs beside its parent, with the parent's thread-local
        // storage, where the guard's value lives.
        .flag_if_supported("-fno-stack-protector")
        .try_compile("forkpty_spawn")?;
    Ok(())
}

/// Rust's standard library asks for libgcc_s.so, GCC's unwinder, which a
/// machine without a compiler may lack. The same unwinder comes as an archive
/// with every GCC: a linker script of that name leads there.
fn alone() -> Result<(), Box<dyn Error>> {
    if env::var("CARGO_CFG_TARGET_ENV").as_deref() != Ok("gnu") {
        return Ok(());
    }
    let folder = PathBuf::from(env::var("OUT_DIR")?).join("link");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("libgcc_s.so"), "GROUP ( -lgcc_eh -lgcc )\n")?;
    println!("cargo:rustc-link-arg-bins=-L{}", folder.display());
    Ok(())
}
