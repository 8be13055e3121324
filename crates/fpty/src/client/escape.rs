//! What a person types to the client itself: `~` at the beginning of a line,
//! as in ssh(1).

/// What a key, or the keys before it, turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typed {
    /// For the program.
    Pass,
    /// `~.`: leave.
    Leave,
    /// `~?`: say what there is.
    Help,
    /// `~^Z`: stop, to go on with `fg`.
    Suspend,
}

/// What `~?` says.
pub const HELP: &str = "\r\nEscapes, after a newline:\r\n\
    \x20 ~.   leave\r\n\
    \x20 ~^Z  suspend\r\n\
    \x20 ~?   this help\r\n\
    \x20 ~~   a tilde\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    LineBegins,
    Tilde,
    Line,
}

/// Looks for escapes in what is typed.
#[derive(Debug)]
pub struct Escapes {
    state: State,
}

const CTRL_Z: u8 = 0x1a;

impl Escapes {
    /// Nothing was typed yet: a line begins.
    pub fn new() -> Self {
        Self { state: State::LineBegins }
    }

    /// Appends to `passed` what of `bytes` is for the program, up to the
    /// first escape that means something else; returns it and how many bytes
    /// it took.
    pub fn filter(&mut self, bytes: &[u8], passed: &mut Vec<u8>) -> (Typed, usize) {
        for (at, &byte) in bytes.iter().enumerate() {
            let before = self.state;
            self.state =
                if matches!(byte, b'\r' | b'\n') { State::LineBegins } else { State::Line };
            match (before, byte) {
                (State::LineBegins, b'~') => {
                    self.state = State::Tilde;
                    continue;
                }
                (State::Tilde, b'.') => return (Typed::Leave, at + 1),
                (State::Tilde, b'?') => {
                    self.state = State::LineBegins;
                    return (Typed::Help, at + 1);
                }
                (State::Tilde, CTRL_Z) => {
                    self.state = State::LineBegins;
                    return (Typed::Suspend, at + 1);
                }
                // The second of two.
                (State::Tilde, b'~') => {}
                // It was just a tilde.
                (State::Tilde, _) => passed.push(b'~'),
                (State::LineBegins | State::Line, _) => {}
            }
            passed.push(byte);
        }
        (Typed::Pass, bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is passed on, and every escape, of keys typed one by one.
    fn typed(keys: &[u8]) -> (Vec<u8>, Vec<Typed>) {
        let (mut escapes, mut passed, mut found) = (Escapes::new(), Vec::new(), Vec::new());
        for key in keys {
            match escapes.filter(&[*key], &mut passed).0 {
                Typed::Pass => {}
                other => found.push(other),
            }
        }
        (passed, found)
    }

    #[test]
    fn escapes_count_at_the_beginning_of_a_line_only() {
        assert_eq!(typed(b"~."), (vec![], vec![Typed::Leave]));
        assert_eq!(typed(b"ls\r~."), (b"ls\r".to_vec(), vec![Typed::Leave]));
        assert_eq!(typed(b"ls ~."), (b"ls ~.".to_vec(), vec![]));
        assert_eq!(typed(b"~?x"), (b"x".to_vec(), vec![Typed::Help]));
        assert_eq!(typed(b"~\x1a~."), (vec![], vec![Typed::Suspend, Typed::Leave]));
    }

    #[test]
    fn a_tilde_is_a_tilde() {
        assert_eq!(typed(b"~~."), (b"~.".to_vec(), vec![]));
        assert_eq!(typed(b"~x"), (b"~x".to_vec(), vec![]));
        assert_eq!(typed(b"~\r~."), (b"~\r".to_vec(), vec![Typed::Leave]));
        assert_eq!(typed(b"cd ~/src\r"), (b"cd ~/src\r".to_vec(), vec![]));
    }

    #[test]
    fn a_paste_is_taken_up_to_the_escape() {
        let (mut escapes, mut passed) = (Escapes::new(), Vec::new());
        assert_eq!(escapes.filter(b"a\r~?b", &mut passed), (Typed::Help, 4));
        assert_eq!(escapes.filter(b"b", &mut passed), (Typed::Pass, 1));
        assert_eq!(passed, b"a\rb");
    }
}
