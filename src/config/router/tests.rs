use super::*;

#[test]
fn zero_is_the_default_as_with_the_c_plugin() {
    let mut router = Router::default();
    for (key, value) in [
        (Key::Rows, "0"),
        (Key::Cols, "132"),
        (Key::Processes, "0"),
        (Key::Events, "0"),
        (Key::Timeout, "0"),
    ] {
        router.set(key, "option", value).expect("a valid value");
    }
    assert_eq!((router.rules.rows, router.rules.cols), (24, 132));
    assert_eq!((router.processes, router.events), (1, 64));
    assert_eq!(router.rules.timeout, None);
}

#[test]
fn nonsense_names_option_and_value() {
    let mut router = Router::default();
    for (key, value) in [
        (Key::Rows, "abc"),
        (Key::Cols, "70000"),
        (Key::Processes, "65"),
        (Key::Timeout, "-1"),
        (Key::Harakiri, "soon"),
        (Key::Cheap, "perhaps"),
        (Key::Audit, "xml"),
    ] {
        let error = router.set(key, "forkptyrouter-x", value).expect_err(value).to_string();
        assert!(error.contains("forkptyrouter-x") && error.contains(value), "{error}");
    }
    assert!(router.set(Key::Command, "forkptyrouter-command", " ").is_err());
    assert_eq!(router.rules.rows, 24);
}

#[test]
fn options_without_meaning_say_so() {
    let mut router = Router::default();
    router.set(Key::Cheap, "forkptyrouter-cheap", "").expect("a switch");
    router.set(Key::Fallback, "forkptyrouter-fallback", "127.0.0.1:1").expect("an address");
    assert_eq!(router.remarks.len(), 2);
    router.set(Key::Cheap, "forkptyrouter-cheap", "false").expect("a switch");
    assert_eq!(router.remarks.len(), 2);
}
