//! Packets of the client that detach and reattach, sent to a gateway that the test itself
//! is.
//!
//! No real gateway can be held between the packet TAKEN and the packet GO, nor does one
//! show what it was told.

use std::io::{IoSlice, Read, Write};
use std::os::fd::AsRawFd;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::harness::detachable::fpty;
use crate::harness::fake_gateway::{Fake, Peer};
use crate::harness::person::Person;
use crate::harness::wire::{header, input, packet, variable};
use crate::harness::{Wire, wait_until};

const HELLO: u8 = 102;
const VARIABLES: u8 = 103;
const REQUEST: u8 = 105;
const TAKEN: u8 = 108;
const DETACH: u8 = 109;
const ENDED: u8 = 110;
const OFFER: u8 = 112;
const GO: u8 = 113;

const SIZE: (u16, u16) = (24, 80);

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// A client that comes to the gateway, and that has said what it wants: everything.
#[track_caller]
fn greet(fake: &Fake) -> (Peer, Vec<u8>) {
    let mut peer = fake.accept();
    peer.stream.write_all(&header(1, HELLO)).unwrap();
    let mut said = Vec::new();
    while !said.ends_with(&packet(VARIABLES, &[])) {
        said.extend(peer.read(1));
    }
    (peer, said)
}

#[test]
fn detach_and_attach_requests_have_their_variables() {
    let fake = Fake::new();
    let _person = Person::runs(fpty(&["-n", "build-1", &fake.address]), SIZE);
    let (_peer, said) = greet(&fake);
    for (name, value) in [("fpty.detach", "1"), ("fpty.name", "build-1")] {
        assert!(contains(&said, &variable(name, value)), "{name}: {said:?}");
    }
    for absent in ["fpty.begin", "fpty.steal", "abuild-1"] {
        assert!(!contains(&said, absent.as_bytes()), "{absent}: {said:?}");
    }
    let _person = Person::runs(fpty(&["-A", "build-1", "--steal", &fake.address]), SIZE);
    let (_peer, said) = greet(&fake);
    assert!(contains(&said, &packet(REQUEST, b"abuild-1")), "{said:?}");
    for (name, value) in [("fpty.name", "build-1"), ("fpty.begin", "1"), ("fpty.steal", "1")] {
        assert!(contains(&said, &variable(name, value)), "{name}: {said:?}");
    }
    let _person = Person::runs(fpty(&["-a", "--read-only", &fake.address]), SIZE);
    let (_peer, said) = greet(&fake);
    assert!(contains(&said, &variable("fpty.readonly", "1")), "{said:?}");
}

/// The terminal is on its way to the client; what was typed waits for that, and so does
/// the request to detach.
#[test]
fn input_typed_before_a_detach_arrives() {
    let fake = Fake::new();
    let mut person = Person::runs(fpty(&[&fake.address]), SIZE);
    let (mut peer, _) = greet(&fake);
    let pty = nix::pty::openpty(None, None).unwrap();
    let offer = packet(OFFER, b"m");
    let master = [pty.master.as_raw_fd()];
    let passed = [ControlMessage::ScmRights(&master)];
    let to = peer.stream.as_raw_fd();
    sendmsg::<()>(to, &[IoSlice::new(&offer)], &passed, MsgFlags::empty(), None).unwrap();
    assert_eq!(peer.read(4), packet(TAKEN, &[]));
    person.send("it\r~d");
    person.settles();
    // Nothing of it goes another way.
    peer.stream.set_nonblocking(true).unwrap();
    let mut early = Vec::new();
    let _ = peer.stream.read_to_end(&mut early);
    for wrong in [packet(DETACH, &[]), input("it")] {
        assert!(!contains(&early, &wrong), "{early:?}");
    }
    peer.stream.set_nonblocking(false).unwrap();
    peer.stream.write_all(&packet(GO, &[])).unwrap();
    let mut slave = Wire::over(pty.slave, "the program's end");
    slave.read_while("what was typed", |seen| seen.ends_with(b"it\n"));
    let mut said = Vec::new();
    wait_until("it asks to detach", || {
        said.extend(peer.read(1));
        said.ends_with(&packet(DETACH, &[]))
    });
    peer.stream.write_all(&packet(ENDED, b"\x09\x00k3x9q2aa")).unwrap();
    assert_eq!(person.status(), 0);
    person.sees("fpty: detached: k3x9q2aa (come back with: fpty -a k3x9q2aa ");
}
