//! The library with panics on demand (the feature `fault-injection`), and its server.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use super::{Flavor, servers};

/// What only a library has that panics on demand.
const MARK: &[u8] = b"forkpty-fault-in-";

pub fn has_faults(library: &Path) -> bool {
    let bytes = fs::read(library).unwrap_or_default();
    bytes.windows(MARK.len()).any(|window| window == MARK)
}

/// The library that cargo has built along with this test, for the server that
/// UWSGI names, and that server.
pub fn flavor() -> &'static Flavor {
    static FLAVOR: OnceLock<Flavor> = OnceLock::new();
    FLAVOR.get_or_init(|| {
        let built_for = std::env::var_os("UWSGI").expect("UWSGI names the server");
        let server = fs::read(built_for).expect("UWSGI is a server");
        let is_it = |flavor: &&Flavor| fs::read(&flavor.binary).is_ok_and(|it| it == server);
        let flavor = servers::all().iter().find(is_it);
        let flavor = flavor.expect("UWSGI is one of the servers (and FORKPTY_SERVER allows it)");
        let deps = std::env::current_exe().expect("a path");
        let library = deps.with_file_name("libforkptyrouter.so");
        assert!(has_faults(&library), "{library:?} is of another build: touch src/lib.rs");
        let plugins = Path::new(env!("CARGO_TARGET_TMPDIR")).join("with-faults");
        fs::create_dir_all(&plugins).unwrap();
        let copy = plugins.join(format!(".{}", std::process::id()));
        fs::copy(library, &copy).unwrap();
        fs::rename(copy, plugins.join("forkptyrouter_plugin.so")).unwrap();
        Flavor { name: flavor.name.clone(), binary: flavor.binary.clone(), plugins }
    })
}
