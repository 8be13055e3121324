//! Variables of a client's environment that a session may get (`forkptyrouter-accept-env`).

use std::ffi::CString;

use fpty::proto::variables::{Variables, is_environment_name};

/// Patterns of names, as in sshd_config(5)'s AcceptEnv: `*` stands for any
/// characters, `?` for one. Blanks stand between them; `none` is none. Where none were
/// given the default patterns are in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AcceptEnv(Option<Vec<u8>>);

/// Default patterns: variables that a terminal needs to look right, and the person's language.
const DEFAULT_PATTERNS: &[u8] = b"TERM COLORTERM LANG LANGUAGE LC_* TZ";

/// Variables of the session's identity, and of where its programs are.
const IDENTITY: &[u8] = b"HOME USER LOGNAME SHELL MAIL PATH";

/// Files that shells and interpreters run or read before what they are asked
/// to, and how a shell takes a line apart (sudoers(5): env_delete).
const STARTUP: &[u8] = b"\
    BASH_ENV BASHOPTS CDPATH ENV FPATH GLOBIGNORE IFS JAVA_TOOL_OPTIONS NODE_OPTIONS PERL5DB \
    PERL5LIB PERL5OPT PERLLIB PS4 PYTHONHOME PYTHONINSPECT PYTHONPATH PYTHONUSERBASE RUBYLIB \
    RUBYOPT SHELLOPTS ZDOTDIR";

/// Variables that name files which the C library or a terminal's library opens (sudoers(5):
/// env_check; ld.so(8): secure-execution mode; terminfo(5)).
const CHECKED: &[u8] = b"\
    COLORTERM GCONV_PATH GETCONF_DIR HOSTALIASES LANG LANGUAGE LINGUAS LOCALDOMAIN LOCPATH \
    MALLOC_TRACE NIS_PATH NLSPATH PATH_LOCALE RESOLV_HOST_CONF RES_OPTIONS TERM TERMCAP \
    TERMINFO TERMINFO_DIRS TERMPATH TMPDIR TZDIR";

impl AcceptEnv {
    /// A list of these names, with blanks between.
    pub fn of(typed: &[u8]) -> Self {
        Self(Some(typed.to_vec()))
    }

    /// Adds the names of one more option: the first takes the place of the default ones.
    pub fn add(&mut self, typed: &[u8]) {
        let before = self.0.take().unwrap_or_default();
        *self = Self::of(&[&before, typed].join(&b' '));
    }

    /// Whether a variable may be set, by its name. What the dynamic linker reads
    /// (ld.so(8)) never may, nor what is no name of a variable; what says whose
    /// a session is, or what is to be run before its program, only where a
    /// pattern is that very name.
    pub fn accepts(&self, name: &[u8]) -> bool {
        let must_be_named = contains_word(IDENTITY, name) || contains_word(STARTUP, name);
        is_environment_name(name)
            && !name.starts_with(b"LD_")
            && self.patterns().any(|pattern| match must_be_named {
                true => pattern == name,
                false => matches(pattern, name),
            })
    }

    fn patterns(&self) -> impl Iterator<Item = &[u8]> {
        let names = self.0.as_deref().unwrap_or(DEFAULT_PATTERNS).split(u8::is_ascii_whitespace);
        names.filter(|name| !matches!(*name, b"" | b"none"))
    }

    /// Variables of a client that are accepted into the environment, as `NAME=value`: of
    /// several with one name the last. Where programs run as another user (`of_account`), the
    /// identity is that of the account in any case.
    pub fn accepted_variables(&self, variables: &Variables, of_account: bool) -> Vec<CString> {
        let mut accepted: Vec<(&[u8], CString)> = Vec::new();
        for (name, value) in variables.iter().filter(|(name, _)| self.accepts(name)) {
            // An empty TERM is none.
            if (name == b"TERM" && value.is_empty())
                || (of_account && contains_word(IDENTITY, name))
                || !is_safe(name, value)
            {
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

fn contains_word(names: &[u8], name: &[u8]) -> bool {
    names.split(|byte| *byte == b' ').any(|known| known == name)
}

/// Whether the value names no file that the client chooses: the program may be
/// another user's, and read what the client cannot, or believe what it says
/// (sudoers(5): env_check).
fn is_safe(name: &[u8], value: &[u8]) -> bool {
    let climbs = value.windows(2).any(|pair| pair == b"..");
    let is_plain = value.iter().all(u8::is_ascii_graphic);
    match name {
        // A zone below the system's folder.
        b"TZ" => is_plain && !climbs && !value.starts_with(b"/") && !value.starts_with(b":"),
        _ if name.starts_with(b"LC_") || contains_word(CHECKED, name) => {
            !climbs && !value.starts_with(b":") && !value.iter().any(|byte| b"/%".contains(byte))
        }
        _ => true,
    }
}

/// Whether a name matches a pattern: what follows a star is looked for as early
/// as it can be, so that no star before it has to be thought of again.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut of_name) = (0, 0);
    // Behind the last star, and how much of the name that one has.
    let mut star: Option<(usize, usize)> = None;
    while of_name < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                at += 1;
                star = Some((at, of_name));
            }
            Some(letter) if *letter == b'?' || *letter == name[of_name] => {
                at += 1;
                of_name += 1;
            }
            _ => {
                let Some((behind, taken)) = &mut star else {
                    return false;
                };
                *taken += 1;
                (at, of_name) = (*behind, *taken);
            }
        }
    }
    pattern[at..].iter().all(|letter| *letter == b'*')
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
        let mut accept = AcceptEnv::default();
        accept.add(b"A B");
        accept.add(b"C");
        let given = [b"A", b"C"].map(|name| accept.accepts(name));
        assert!(given == [true; 2] && !accept.accepts(b"TERM"));
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
        let accepted = AcceptEnv::default().accepted_variables(&variables, false);
        assert_eq!(accepted, [c"LANG=C".to_owned(), c"TERM=b".to_owned()]);
    }

    /// Accepted variables among these, by names.
    fn accepted(accept: &str, pairs: &[(&str, &str)], of_account: bool) -> Vec<String> {
        let mut packets = Vec::new();
        let bytes = pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        variables::encode(bytes, &mut packets);
        let mut variables = Variables::default();
        variables.part(&packets[HEADER..], true);
        let accepted = AcceptEnv::of(accept.as_bytes()).accepted_variables(&variables, of_account);
        let name = |pair: &CString| {
            let text = pair.to_string_lossy().into_owned();
            text.split('=').next().unwrap_or_default().to_owned()
        };
        accepted.iter().map(name).collect()
    }

    #[test]
    fn no_value_names_a_file() {
        for (name, value) in [
            ("TZ", "/etc/shadow"),
            ("TZ", ":/etc/shadow"),
            ("TZ", ":x"),
            ("TZ", "../../../etc/shadow"),
            ("TZ", "Europe/../../x"),
            ("TZ", "a b"),
            ("TZ", "a\u{1b}"),
            ("LANG", "/tmp/x"),
            ("LANG", "../x"),
            ("LANG", ".."),
            ("LANG", "%s"),
            ("LANGUAGE", "de:../../tmp"),
            ("LC_ALL", "x/y"),
            ("LC_MESSAGES", "/tmp"),
            ("TERM", "../../tmp/x"),
            ("TERM", "/tmp/x"),
            ("COLORTERM", "/x"),
            ("TERMINFO", "/tmp"),
            ("TERMCAP", "/tmp/x"),
            ("TERMINFO_DIRS", ":/tmp"),
            ("NLSPATH", "%N"),
            ("LOCPATH", "/tmp"),
        ] {
            assert!(accepted("*", &[(name, value)], false).is_empty(), "{name}={value}");
            assert!(accepted(name, &[(name, value)], false).is_empty(), "{name}={value}");
        }
        for (name, value) in [
            ("TZ", "Europe/Berlin"),
            ("TZ", "America/Argentina/Buenos_Aires"),
            ("TZ", "CET-1CEST,M3.5.0,M10.5.0/3"),
            ("TZ", "<+03>-3"),
            ("TZ", ""),
            ("LANG", "de_DE.UTF-8"),
            ("LANG", "sr_RS@latin"),
            ("LANGUAGE", "de:en"),
            ("LC_ALL", "C"),
            ("TERM", "xterm-256color"),
            ("TERM", "screen.xterm-256color"),
            ("COLORTERM", "truecolor"),
            ("EDITOR", "/usr/bin/vi"),
        ] {
            assert_eq!(accepted("*", &[(name, value)], false), [name], "{value}");
        }
    }

    #[test]
    fn whose_a_session_is_must_be_named_and_is_the_accounts() {
        for name in ["HOME", "USER", "LOGNAME", "SHELL", "MAIL", "PATH"] {
            assert!(accepted("*", &[(name, "x")], false).is_empty(), "{name}");
            assert_eq!(accepted(&format!("* {name}"), &[(name, "x")], false), [name]);
            assert!(accepted(&format!("* {name}"), &[(name, "x")], true).is_empty(), "{name}");
        }
        assert!(accepted("* BASH_*", &[("BASH_ENV", "x"), ("ENV", "x")], false).is_empty());
        assert_eq!(accepted("BASH_ENV", &[("BASH_ENV", "x")], true), ["BASH_ENV"]);
    }

    #[test]
    fn a_pattern_with_many_stars_takes_no_time() {
        let pattern = b"*a*b*c*d*e*f*g*h*i*j*k*l*m*n*o*p*x";
        let name = b"abcdefghijklmnop".repeat(4000);
        let begin = std::time::Instant::now();
        assert!(!matches(pattern, &name));
        assert!(!matches(&b"*a".repeat(40_000), &b"a".repeat(30_000)));
        assert!(begin.elapsed() < std::time::Duration::from_secs(2), "{:?}", begin.elapsed());
        for (pattern, name, contains_word) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("*a*b*c*", "xaxbxcx", true),
            ("*a*b*c", "abcabc", true),
            ("a*b?c", "aXXbbXc", true),
            ("a*b?c", "abc", false),
            ("*?*", "", false),
            ("**a", "a", true),
            ("*ab", "aab", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), name.as_bytes()),
                contains_word,
                "{pattern} {name}"
            );
        }
    }
}
