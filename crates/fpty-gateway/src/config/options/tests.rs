use super::*;
use crate::config::option_table;

/// Sets an option as the server passes it on.
fn set(config: &mut GatewayConfig, name: &str, value: &str) -> Result<()> {
    option_table::apply_option(&OPTIONS, config, name, value.as_ref())
}

#[test]
fn zero_is_the_default_as_with_the_c_plugin() {
    let mut config = GatewayConfig::default();
    for (name, value) in [
        ("forkptyrouter-rows", "0"),
        ("forkptyrouter-cols", "132"),
        ("forkptyrouter-processes", "0"),
        ("forkptyrouter-events", "0"),
        ("forkptyrouter-timeout", "0"),
    ] {
        set(&mut config, name, value).expect("a valid value");
    }
    assert_eq!((config.rules.size.rows, config.rules.size.cols), (24, 132));
    assert_eq!((config.processes, config.events), (1, 64));
    assert_eq!(config.rules.timeout, None);
}

#[test]
fn nonsense_names_option_and_value() {
    let mut config = GatewayConfig::default();
    for (name, value) in [
        ("forkptyrouter-rows", "abc"),
        ("forkptyrouter-cols", "70000"),
        ("forkptyrouter-processes", "65"),
        ("forkptyrouter-timeout", "-1"),
        ("forkptyrouter-harakiri", "soon"),
        ("forkptyrouter-cheap", "perhaps"),
        ("forkptyrouter-audit", "xml"),
    ] {
        let error = set(&mut config, name, value).expect_err(value).to_string();
        assert!(error.contains(name) && error.contains(value), "{error}");
    }
    assert!(set(&mut config, "forkptyrouter-command", " ").is_err());
    assert_eq!(config.rules.size.rows, 24);
}

#[test]
fn options_without_meaning_say_so() {
    let mut config = GatewayConfig::default();
    set(&mut config, "forkptyrouter-cheap", "").expect("a switch");
    set(&mut config, "forkptyrouter-fallback", "127.0.0.1:1").expect("an address");
    assert_eq!(config.remarks.len(), 2);
    set(&mut config, "forkptyrouter-cheap", "false").expect("a switch");
    assert_eq!(config.remarks.len(), 2);
}
