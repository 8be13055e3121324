//! Escapes: keys for the client itself, `~` at the beginning of a line, as in ssh(1).

/// The action that an escape stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EscapeAction {
    /// Keys for the program.
    Pass,
    /// `~.`: leave.
    Disconnect,
    /// `~d`: leave, and let the session go on.
    Detach,
    /// `~?`: say what there is.
    Help,
    /// `~^Z`: stop, to go on with `fg`.
    Suspend,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    LineStart,
    Tilde,
    MidLine,
}

/// The filter that finds escapes in the input.
#[derive(Debug)]
pub struct EscapeFilter {
    /// The character that begins an escape.
    character: u8,
    state: State,
}

/// The keys that mean something after the escape character; 0x1a: Ctrl-Z.
const ACTIONS: [(u8, EscapeAction); 4] = [
    (b'.', EscapeAction::Disconnect),
    (b'd', EscapeAction::Detach),
    (b'?', EscapeAction::Help),
    (0x1a, EscapeAction::Suspend),
];

/// The character that was typed to begin escapes with; `none`: there are none.
///
/// # Errors
/// The word is no such character: the reason.
pub fn character(typed: &str) -> Result<Option<u8>, &'static str> {
    match typed.as_bytes() {
        b"none" => Ok(None),
        b"." | b"?" | b"d" => Err("it means something after the escape character"),
        [character] if character.is_ascii_graphic() => Ok(Some(*character)),
        _ => Err("neither one character nor none"),
    }
}

impl EscapeFilter {
    /// A filter at the start of a line.
    pub fn new(character: u8) -> Self {
        Self { character, state: State::LineStart }
    }

    /// The text of `~?`.
    pub fn help(&self) -> String {
        let c = char::from(self.character);
        format!(
            "\r\nEscapes, after a newline:\r\n\
             \x20 {c}.   disconnect, and end the session\r\n\
             \x20 {c}d   detach: the session goes on, where the server allows that\r\n\
             \x20 {c}^Z  suspend\r\n\
             \x20 {c}?   this help\r\n\
             \x20 {c}{c}   the character itself\r\n"
        )
    }

    /// An escape that was begun is none any more.
    pub fn reset(&mut self) {
        if self.state == State::Tilde {
            self.state = State::LineStart;
        }
    }

    /// Appends to `passed` what of `bytes` is for the program, up to the
    /// first escape that means something else; returns it and how many bytes
    /// it took.
    pub fn filter(&mut self, bytes: &[u8], passed: &mut Vec<u8>) -> (EscapeAction, usize) {
        for (at, &byte) in bytes.iter().enumerate() {
            let before = self.state;
            self.state =
                if matches!(byte, b'\r' | b'\n') { State::LineStart } else { State::MidLine };
            match (before, byte) {
                (State::LineStart, byte) if byte == self.character => {
                    self.state = State::Tilde;
                    continue;
                }
                (State::Tilde, byte) => {
                    if let Some((_, action)) = ACTIONS.iter().find(|(key, _)| *key == byte) {
                        self.state = State::LineStart;
                        return (*action, at + 1);
                    }
                    // The second of two stands for one, any other key for itself.
                    if byte != self.character {
                        passed.push(self.character);
                    }
                }
                (State::LineStart | State::MidLine, _) => {}
            }
            passed.push(byte);
        }
        (EscapeAction::Pass, bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys that are passed on, and every escape, of keys typed one by one.
    fn typed(keys: &[u8]) -> (Vec<u8>, Vec<EscapeAction>) {
        let (mut escapes, mut passed, mut found) =
            (EscapeFilter::new(b'~'), Vec::new(), Vec::new());
        for key in keys {
            match escapes.filter(&[*key], &mut passed).0 {
                EscapeAction::Pass => {}
                other => found.push(other),
            }
        }
        (passed, found)
    }

    #[test]
    fn escapes_count_at_the_beginning_of_a_line_only() {
        assert_eq!(typed(b"~."), (vec![], vec![EscapeAction::Disconnect]));
        assert_eq!(typed(b"ls\r~."), (b"ls\r".to_vec(), vec![EscapeAction::Disconnect]));
        assert_eq!(typed(b"ls ~."), (b"ls ~.".to_vec(), vec![]));
        assert_eq!(typed(b"~?x"), (b"x".to_vec(), vec![EscapeAction::Help]));
        assert_eq!(typed(b"~d~d"), (vec![], vec![EscapeAction::Detach, EscapeAction::Detach]));
        assert_eq!(typed(b"cd ~d"), (b"cd ~d".to_vec(), vec![]));
        assert_eq!(
            typed(b"~\x1a~."),
            (vec![], vec![EscapeAction::Suspend, EscapeAction::Disconnect])
        );
    }

    #[test]
    fn a_tilde_is_a_tilde() {
        assert_eq!(typed(b"~~."), (b"~.".to_vec(), vec![]));
        assert_eq!(typed(b"~x"), (b"~x".to_vec(), vec![]));
        assert_eq!(typed(b"~\r~."), (b"~\r".to_vec(), vec![EscapeAction::Disconnect]));
        assert_eq!(typed(b"cd ~/src\r"), (b"cd ~/src\r".to_vec(), vec![]));
    }

    #[test]
    fn another_character() {
        let (mut escapes, mut passed) = (EscapeFilter::new(b'%'), Vec::new());
        assert_eq!(escapes.filter(b"~.\r%.", &mut passed), (EscapeAction::Disconnect, 5));
        assert_eq!(passed, b"~.\r");
        assert!(escapes.help().contains("%."));
    }

    #[test]
    fn a_signals_key_gives_the_tilde_up() {
        for key in [b'\x03', b'\x1c', b'\x15'] {
            let keys = [b"~", &[key][..], b". file\r"].concat();
            assert_eq!(typed(&keys), (keys, vec![]));
        }
    }

    #[test]
    fn what_was_begun_can_be_forgotten() {
        let (mut escapes, mut passed) = (EscapeFilter::new(b'~'), Vec::new());
        escapes.filter(b"~", &mut passed);
        escapes.reset();
        assert_eq!(escapes.filter(b".x", &mut passed), (EscapeAction::Pass, 2));
        assert_eq!(passed, b".x");
    }

    #[test]
    fn a_paste_is_taken_up_to_the_escape() {
        let (mut escapes, mut passed) = (EscapeFilter::new(b'~'), Vec::new());
        assert_eq!(escapes.filter(b"a\r~?b", &mut passed), (EscapeAction::Help, 4));
        assert_eq!(escapes.filter(b"b", &mut passed), (EscapeAction::Pass, 1));
        assert_eq!(passed, b"a\rb");
    }
}
