//! A person at a terminal: a client on a pseudo-terminal, and an emulator that
//! shows what it says.

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};

use super::DEADLINE;

/// How long a screen does not change that has settled.
const SETTLED: Duration = Duration::from_millis(250);

pub struct Person {
    terminal: OwnedFd,
    client: Child,
    screen: RefCell<vt100::Parser>,
    shown: RefCell<Vec<u8>>,
}

fn window((rows, cols): (u16, u16)) -> Winsize {
    Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Person {
    /// Runs a client on a terminal of this size.
    pub fn runs(mut command: Command, size: (u16, u16)) -> Self {
        let pty = openpty(Some(&window(size)), None).unwrap();
        for end in [&pty.master, &pty.slave] {
            let flag = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
            nix::fcntl::fcntl(end, flag).unwrap();
        }
        command.env("TERM", "xterm-256color");
        let slave = || File::from(pty.slave.try_clone().unwrap());
        command.stdin(slave()).stdout(slave()).stderr(slave());
        // SAFETY: setsid and ioctl are async-signal-safe and touch no memory.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                match libc::ioctl(0, libc::TIOCSCTTY, 0) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        let client = command.spawn().unwrap();
        let (rows, cols) = (size.0.try_into().unwrap(), size.1.try_into().unwrap());
        let screen = vt100::Parser::new(rows, cols, 10_000).into();
        Self { terminal: pty.master, client, screen, shown: RefCell::default() }
    }

    /// The client's process.
    pub fn client(&self) -> i32 {
        self.client.id() as i32
    }

    /// Has it killed, as with a machine that is gone.
    pub fn vanishes(self) {}

    pub fn send(&self, keys: &str) {
        let mut bytes = keys.as_bytes();
        while !bytes.is_empty() {
            let count = nix::unistd::write(&self.terminal, bytes).unwrap();
            bytes = &bytes[count..];
        }
    }

    pub fn resize(&self, size: (u16, u16)) {
        let window = window(size);
        // SAFETY: TIOCSWINSZ reads one winsize.
        let set = unsafe { libc::ioctl(self.terminal.as_raw_fd(), libc::TIOCSWINSZ, &window) };
        assert_eq!(set, 0);
        let (rows, cols) = (size.0.try_into().unwrap(), size.1.try_into().unwrap());
        self.screen.borrow_mut().screen_mut().set_size(rows, cols);
    }

    /// Takes in what is said within this time; whether there was something.
    fn looks(&self, within: Duration) -> bool {
        let mut polled = [PollFd::new(std::os::fd::AsFd::as_fd(&self.terminal), PollFlags::POLLIN)];
        if poll(&mut polled, PollTimeout::try_from(within).unwrap()) == Ok(0) {
            return false;
        }
        let mut buffer = [0; 65536];
        match nix::unistd::read(&self.terminal, &mut buffer) {
            Ok(count) => {
                self.screen.borrow_mut().process(&buffer[..count]);
                self.shown.borrow_mut().extend_from_slice(&buffer[..count]);
                count > 0
            }
            Err(Errno::EIO) => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits until the screen has this, less blanks at the ends of lines.
    #[track_caller]
    pub fn sees(&mut self, wanted: &str) {
        let end = Instant::now() + DEADLINE;
        loop {
            let text = self.text();
            if text.contains(wanted) {
                return;
            }
            assert!(
                Instant::now() < end,
                "waited for {wanted:?} in vain:\n{text}\n{:?}",
                self.shown().chars().take(3000).collect::<String>()
            );
            if !self.looks(Duration::from_millis(50)) {
                // It may have ended.
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// Waits until nothing changes any more.
    pub fn settles(&self) {
        while self.looks(SETTLED) {}
    }

    /// The lines of the screen; the cursor's line is as long as the cursor is
    /// far.
    fn text(&self) -> String {
        let parser = self.screen.borrow();
        let screen = parser.screen();
        let (row, col) = screen.cursor_position();
        let mut text = String::new();
        for (at, line) in screen.rows(0, u16::MAX).enumerate() {
            let mut line = line.trim_end().to_owned();
            if at == usize::from(row) {
                while line.chars().count() < col.into() {
                    line.push(' ');
                }
            }
            text.push_str(&line);
            text.push('\n');
        }
        text
    }

    /// At least so many lines are above the screen.
    #[track_caller]
    pub fn scrolls_at_least(&mut self, lines: usize) {
        let screen = self.screen.get_mut().screen_mut();
        screen.set_scrollback(usize::MAX);
        assert!(screen.scrollback() >= lines, "{}", screen.scrollback());
        screen.set_scrollback(0);
    }

    /// All lines, those above the screen, too.
    pub fn all_lines(&mut self) -> String {
        let screen = self.screen.get_mut().screen_mut();
        let mut text = String::new();
        screen.set_scrollback(usize::MAX);
        let above = screen.scrollback();
        for back in (1..=above).rev() {
            screen.set_scrollback(back);
            text.push_str(screen.rows(0, u16::MAX).next().unwrap_or_default().trim_end());
            text.push('\n');
        }
        screen.set_scrollback(0);
        text + &screen.contents()
    }

    /// Waits until anything was said.
    pub fn sees_any(&mut self) {
        while self.shown.borrow().is_empty() {
            self.looks(DEADLINE);
        }
    }

    /// All that was said so far.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.borrow()).into_owned()
    }

    /// Everything that an emulator knows of the screen.
    pub fn cells(&self) -> Vec<String> {
        let parser = self.screen.borrow();
        let screen = parser.screen();
        let (rows, cols) = screen.size();
        let mut cells = vec![format!(
            "{:?} hidden {} alternate {} keypad {} keys {} paste {} mouse {:?} {:?}",
            screen.cursor_position(),
            screen.hide_cursor(),
            screen.alternate_screen(),
            screen.application_keypad(),
            screen.application_cursor(),
            screen.bracketed_paste(),
            screen.mouse_protocol_mode(),
            screen.mouse_protocol_encoding(),
        )];
        for row in 0..rows.into() {
            for col in 0..cols.into() {
                let cell = screen.cell(row, col).unwrap();
                let blank = matches!(cell.contents(), "" | " ");
                let foreground = if blank { vt100::Color::Default } else { cell.fgcolor() };
                cells.push(format!(
                    "{row},{col} {:?} {foreground:?} on {:?} {} {} {} {}",
                    if blank { " " } else { cell.contents() },
                    cell.bgcolor(),
                    !blank && cell.bold(),
                    !blank && cell.italic(),
                    cell.underline(),
                    cell.inverse(),
                ));
            }
        }
        cells
    }

    /// How the client ended, if it has.
    pub fn looks_for_its_end(&mut self) -> Option<i32> {
        self.looks(Duration::ZERO);
        self.client.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
    }

    /// How the client ended, if it does within this time.
    pub fn ends_within(&mut self, within: Duration) -> Option<i32> {
        let end = Instant::now() + within;
        while Instant::now() < end {
            self.looks(Duration::from_millis(20));
            if let Some(status) = self.client.try_wait().unwrap() {
                while self.looks(Duration::from_millis(20)) {}
                return Some(status.code().unwrap_or(-1));
            }
        }
        None
    }

    /// How the client ended.
    #[track_caller]
    pub fn status(&mut self) -> i32 {
        let status = self.ends_within(DEADLINE);
        status.unwrap_or_else(|| panic!("it does not end:\n{}", self.text()))
    }
}

impl Drop for Person {
    /// As a machine that is gone.
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

#[track_caller]
pub fn assert_same(found: &[String], wanted: &[String], what: &str) {
    let differences: Vec<String> = found
        .iter()
        .zip(wanted)
        .filter(|(found, wanted)| found != wanted)
        .map(|(found, wanted)| format!("{found} instead of {wanted}"))
        .collect();
    let show = |cells: &[String]| -> String {
        let letter = |cell: &String| cell.split('"').nth(1).map(|text| text.replace(' ', "."));
        cells.iter().skip(1).filter_map(letter).collect()
    };
    assert!(
        differences.is_empty() && found.len() == wanted.len(),
        "{what}: {} cells: {:#?}\n{}\n{}",
        differences.len(),
        &differences[..differences.len().min(12)],
        show(found),
        show(wanted)
    );
}
