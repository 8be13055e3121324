//! Which variables of a client's environment a session may get
//! (`forkptyrouter-accept-env`).

use std::ffi::CString;

use fpty::proto::variables::{Variables, is_environment_name};

/// Patterns of names, as in sshd_config(5)'s AcceptEnv: `*` stands for any
/// characters, `?` for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptEnv(Vec<Vec<u8>>);

impl Default for AcceptEnv {
    /// What a terminal needs to look right, and its person's language.
    fn default() -> Self {
        Self::of(b"TERM COLORTERM LANG LANGUAGE LC_* TZ")
    }
}

impl AcceptEnv {
    /// Names with blanks between; `none`: none.
    pub fn of(typed: &[u8]) -> Self {
        let names = typed.split(u8::is_ascii_whitespace).filter(|name| !name.is_empty());
        Self(names.filter(|name| *name != b"none").map(<[u8]>::to_vec).collect())
    }

    /// Adds those of another value of the option.
    pub fn and(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Whether a variable may be set. What the dynamic linker reads
    /// (ld.so(8)) never may, nor what is no name of a variable.
    pub fn accepts(&self, name: &[u8]) -> bool {
        is_environment_name(name)
            && !name.starts_with(b"LD_")
            && self.0.iter().any(|pattern| matches(pattern, name))
    }

    /// What of a client's variables is for the environment, as `NAME=value`:
    /// of several with one name the last.
    pub fn of_client(&self, variables: &Variables) -> Vec<CString> {
        let mut accepted: Vec<(&[u8], CString)> = Vec::new();
        for (name, value) in variables.iter().filter(|(name, _)| self.accepts(name)) {
            // An empty TERM is none.
            if name == b"TERM" && value.is_empty() {
                continue;
            }
            if let Ok(pair) = CString::new([name, b"=", value].concat()) {
                accepted.retain(|(other, _)| *other != name);
                accepted.push((name, pair));
            }
        }
        accepted.into_iter().map(|(_, pair)| pair).collect()
    }
}

fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=name.len()).any(|at| matches(rest, &name[at..])),
        ([b'?', rest @ ..], [_, name @ ..]) => matches(rest, name),
        ([first, rest @ ..], [letter, name @ ..]) => first == letter && matches(rest, name),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fpty::proto::{HEADER, variables};

    #[test]
    fn patterns_are_sshds() {
        let accept = AcceptEnv::of(b"LC_* X?Z  A");
        for name in ["LC_ALL", "LC_", "XYZ", "A"] {
            assert!(accept.accepts(name.as_bytes()), "{name}");
        }
        for name in ["LC", "XZ", "XYYZ", "AB", "TERM"] {
            assert!(!accept.accepts(name.as_bytes()), "{name}");
        }
        assert!(AcceptEnv::default().accepts(b"TERM"));
        assert!(!AcceptEnv::of(b"none").accepts(b"TERM"));
    }

    #[test]
    fn some_are_never_accepted() {
        let all = AcceptEnv::of(b"*");
        assert!(all.accepts(b"ANYTHING"));
        for name in ["LD_PRELOAD", "LD_", "A=B", "1A", "", "fpty.take", "A\n", "BASH_FUNC_x%%"] {
            assert!(!all.accepts(name.as_bytes()), "{name:?}");
        }
    }

    #[test]
    fn the_last_of_one_name_counts() {
        let mut packets = Vec::new();
        let pairs = [("TERM", "a"), ("TERM", ""), ("TZ", "x\0y"), ("LANG", "C"), ("TERM", "b")];
        let bytes = pairs.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        variables::encode(bytes, &mut packets);
        let mut variables = Variables::default();
        variables.part(&packets[HEADER..], true);
        let accepted = AcceptEnv::default().of_client(&variables);
        assert_eq!(accepted, [c"LANG=C".to_owned(), c"TERM=b".to_owned()]);
    }
}
