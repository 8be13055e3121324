//! Whether /proc tells of this process's own PID namespace (pid_namespaces(7)):
//! a jail may have the outer one, whose numbers are other processes', or none.

use once_cell::sync::OnceCell;

/// Whether the numbers in /proc are ours. It is found out once in a process
/// and its children.
pub fn is_ours() -> bool {
    static IS_OURS: OnceCell<bool> = OnceCell::new();
    *IS_OURS.get_or_init(|| {
        std::fs::read_to_string("/proc/self/status").is_ok_and(|status| says_so(&status))
    })
}

/// `NSpid` lists the number in /proc's own namespace, then in those within it,
/// down to ours.
fn says_so(status: &str) -> bool {
    let pid = std::process::id().to_string();
    match status.lines().find_map(|line| line.strip_prefix("NSpid:")) {
        Some(numbers) => numbers.split_ascii_whitespace().eq([pid.as_str()]),
        // Linux before 4.1.
        None => std::fs::read_link("/proc/self").is_ok_and(|own| own.as_os_str() == pid.as_str()),
    }
}

/// A field of `/proc/PID/stat`, counted from 1 as in proc(5), of those after
/// the name.
pub fn stat(pid: impl std::fmt::Display, field: usize) -> Option<String> {
    if !is_ours() {
        return None;
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses, which may hold anything.
    let fields = stat.rsplit_once(')')?.1;
    fields.split_ascii_whitespace().nth(field.checked_sub(3)?).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outer_one_is_not_ours() {
        let pid = std::process::id();
        assert!(says_so(&format!("Name:\tx\nNSpid:\t{pid}\nNSsid:\t1\n")));
        assert!(!says_so(&format!("NSpid:\t4711\t{pid}\n")));
        assert!(!says_so("NSpid:\t4711\n"));
    }

    #[test]
    fn fields_are_counted_as_in_the_manual() {
        let pid = std::process::id();
        assert!(stat(pid, 3).is_some_and(|state| state == "R" || state == "S"));
        let parent = nix::unistd::getppid().to_string();
        assert_eq!(stat(pid, 4), Some(parent));
        assert_eq!(stat(pid, 2), None);
    }
}
