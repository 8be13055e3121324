//! System calls that are refused, as by an older kernel or the seccomp(2)
//! profile of a container.

use std::io;

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

/// One call, or that call with one value of one argument.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    number: libc::c_long,
    argument: Option<(u32, u32)>,
}

/// A call.
pub const fn call(number: libc::c_long) -> Call {
    Call { number, argument: None }
}

/// A call with this as its argument of this number, from 0.
pub const fn call_with(number: libc::c_long, argument: u32, value: u32) -> Call {
    Call { number, argument: Some((argument, value)) }
}

/// Filter that the kernel runs before each call.
#[derive(Clone)]
pub struct Filter(Vec<sock_filter>);

impl Filter {
    /// Answers these calls with an errno.
    pub fn refusing(calls: &[Call], errno: i32) -> Self {
        // Of struct seccomp_data: the number, and the low halves of arguments.
        let argument_at = |index: u32| 16 + 8 * index;
        let load = |at: u32| instruction(BPF_LD | BPF_W | BPF_ABS, 0, at);
        let unless = |value: u32, skip: u8| instruction(BPF_JMP | BPF_JEQ | BPF_K, skip, value);
        let refuse = libc::SECCOMP_RET_ERRNO | errno.unsigned_abs();
        let answer = |answer: u32| instruction(BPF_RET | BPF_K, 0, answer);
        let mut program = Vec::new();
        for call in calls {
            let number = u32::try_from(call.number).expect("a number");
            program.push(load(0));
            match call.argument {
                None => program.extend([unless(number, 1), answer(refuse)]),
                Some((index, value)) => program.extend([
                    unless(number, 3),
                    load(argument_at(index)),
                    unless(value, 1),
                    answer(refuse),
                ]),
            }
        }
        program.push(answer(libc::SECCOMP_RET_ALLOW));
        Self(program)
    }

    /// Has this process ask, and all that come of it. Allocates nothing.
    pub fn install(&self) -> io::Result<()> {
        let program =
            libc::sock_fprog { len: self.0.len() as u16, filter: self.0.as_ptr().cast_mut() };
        // SAFETY: two settings of this process; the kernel copies the program.
        let set = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) == 0
        };
        if set { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// A jump goes on where it is true, and skips so many where not.
fn instruction(code: u32, skip: u8, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: skip, k }
}
