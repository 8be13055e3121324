use super::*;
use crate::config::{option_table, options};

/// As the server passes an option on.
fn set(router: &mut Router, name: &str, value: &str) -> Result<()> {
    option_table::set(&options::OPTIONS, router, name, value.as_ref())
}

#[test]
fn zero_is_the_default_as_with_the_c_plugin() {
    let mut router = Router::default();
    for (name, value) in [
        ("forkptyrouter-rows", "0"),
        ("forkptyrouter-cols", "132"),
        ("forkptyrouter-processes", "0"),
        ("forkptyrouter-events", "0"),
        ("forkptyrouter-timeout", "0"),
    ] {
        set(&mut router, name, value).expect("a valid value");
    }
    assert_eq!((router.rules.size.rows, router.rules.size.cols), (24, 132));
    assert_eq!((router.processes, router.events), (1, 64));
    assert_eq!(router.rules.timeout, None);
}

#[test]
fn nonsense_names_option_and_value() {
    let mut router = Router::default();
    for (name, value) in [
        ("forkptyrouter-rows", "abc"),
        ("forkptyrouter-cols", "70000"),
        ("forkptyrouter-processes", "65"),
        ("forkptyrouter-timeout", "-1"),
        ("forkptyrouter-harakiri", "soon"),
        ("forkptyrouter-cheap", "perhaps"),
        ("forkptyrouter-audit", "xml"),
    ] {
        let error = set(&mut router, name, value).expect_err(value).to_string();
        assert!(error.contains(name) && error.contains(value), "{error}");
    }
    assert!(set(&mut router, "forkptyrouter-command", " ").is_err());
    assert_eq!(router.rules.size.rows, 24);
}

#[test]
fn options_without_meaning_say_so() {
    let mut router = Router::default();
    set(&mut router, "forkptyrouter-cheap", "").expect("a switch");
    set(&mut router, "forkptyrouter-fallback", "127.0.0.1:1").expect("an address");
    assert_eq!(router.remarks.len(), 2);
    set(&mut router, "forkptyrouter-cheap", "false").expect("a switch");
    assert_eq!(router.remarks.len(), 2);
}
