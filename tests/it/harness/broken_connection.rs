//! A line over TCP that breaks: its client is reset, and the gateway is told of
//! that, or not.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

/// How often each end is looked at.
const OFTEN: Duration = Duration::from_millis(3);

#[derive(Default)]
struct State {
    /// Grows with each break.
    breaks: usize,
    /// Gateways' ends that nobody tells of that.
    half_open: Vec<TcpStream>,
    tells_gateway: bool,
    refuses: bool,
}

/// The relay's listener. Its threads end with the test.
pub struct Breaker {
    /// Where clients connect to.
    pub address: String,
    state: Arc<Mutex<State>>,
}

impl Breaker {
    /// To a gateway's address.
    pub fn to(gateway: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::<Mutex<State>>::default();
        let (gateway, all) = (gateway.to_owned(), state.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let refuses = all.lock().unwrap().refuses;
                match TcpStream::connect(&gateway) {
                    Ok(gateway) if !refuses => {
                        let all = all.clone();
                        thread::spawn(move || passes(client, gateway, &all));
                    }
                    _ => reset(&client),
                }
            }
        });
        Self { address, state }
    }

    /// Breaks all lines.
    pub fn breaks(&self, tells_gateway: bool) {
        let mut state = self.state.lock().unwrap();
        (state.breaks, state.tells_gateway) = (state.breaks + 1, tells_gateway);
    }

    /// Whether whoever comes is turned away.
    pub fn refuses(&self, refuses: bool) {
        self.state.lock().unwrap().refuses = refuses;
    }
}

/// Has the close of a connection reset it.
fn reset(stream: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let _ = setsockopt(stream, sockopt::Linger, &linger);
}

fn passes(mut client: TcpStream, mut gateway: TcpStream, state: &Mutex<State>) {
    let breaks = state.lock().unwrap().breaks;
    for end in [&client, &gateway] {
        end.set_read_timeout(Some(OFTEN)).unwrap();
        end.set_nodelay(true).unwrap();
    }
    loop {
        let mut state = state.lock().unwrap();
        if state.breaks != breaks {
            reset(&client);
            if state.tells_gateway {
                reset(&gateway);
            } else {
                state.half_open.push(gateway);
            }
            return;
        }
        drop(state);
        if !(copies(&mut client, &mut gateway) && copies(&mut gateway, &mut client)) {
            return;
        }
    }
}

fn copies(from: &mut TcpStream, to: &mut TcpStream) -> bool {
    let mut buffer = [0; 65_536];
    match from.read(&mut buffer) {
        Ok(0) => false,
        Ok(count) => to.write_all(&buffer[..count]).is_ok(),
        Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}
