//! Users and groups by name or number (passwd(5), group(5)).

use std::collections::BTreeSet;
use std::ffi::{CString, OsString};

use nix::unistd::{Gid, Group, Uid, User};

/// The number of a user; `None`: there is none of that name.
pub fn uid_of(typed: &str) -> Option<u32> {
    number(typed).or_else(|| Some(User::from_name(typed).ok()??.uid.as_raw()))
}

/// The number of a group; `None`: there is none of that name.
pub fn gid_of(typed: &str) -> Option<u32> {
    number(typed).or_else(|| Some(Group::from_name(typed).ok()??.gid.as_raw()))
}

/// A typed number, but for the one that means "none" to the kernel.
fn number(typed: &str) -> Option<u32> {
    let digits = !typed.is_empty() && typed.bytes().all(|byte| byte.is_ascii_digit());
    typed.parse().ok().filter(|number| digits && *number != u32::MAX)
}

/// Account of a user (passwd(5), group(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The name.
    pub name: String,
    /// The primary group.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
    /// The home directory.
    pub home: OsString,
    /// The shell.
    pub shell: OsString,
}

/// The account of a user; `None`: there is none of that number.
pub fn account(uid: u32) -> Option<Account> {
    let user = User::from_uid(Uid::from_raw(uid)).ok()??;
    let name = CString::new(user.name.as_str()).ok()?;
    let groups = nix::unistd::getgrouplist(&name, user.gid).unwrap_or_default();
    Some(Account {
        name: user.name,
        gid: user.gid.as_raw(),
        groups: groups.into_iter().map(Gid::as_raw).collect(),
        home: user.dir.into_os_string(),
        shell: user.shell.into_os_string(),
    })
}

/// The name of a user, whoever has to be asked for it: this may take for ever.
pub fn user_name(uid: u32) -> Option<String> {
    Some(User::from_uid(Uid::from_raw(uid)).ok()??.name)
}

/// The name of a user by passwd(5) alone, a file of this machine.
pub fn user_name_in_passwd(uid: u32) -> Option<String> {
    let file = std::fs::read("/etc/passwd").ok()?;
    user_name_of_line(&file, uid)
}

fn user_name_of_line(file: &[u8], uid: u32) -> Option<String> {
    let number = uid.to_string();
    file.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let (name, of_line) = (fields.next()?, fields.nth(1)?);
        // Lines that begin with these stand for a directory's (nsswitch.conf(5)).
        let is_it = of_line == number.as_bytes() && !name.starts_with(b"+");
        (is_it && !name.starts_with(b"-") && !name.is_empty())
            .then(|| String::from_utf8_lossy(name).into_owned())
    })
}

/// The user of this process.
pub fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// The group of this process.
pub fn own_gid() -> u32 {
    nix::unistd::getegid().as_raw()
}

/// The groups of this process beside its own.
pub fn own_groups() -> BTreeSet<u32> {
    nix::unistd::getgroups().unwrap_or_default().into_iter().map(Gid::as_raw).collect()
}

/// Whether this process may become any user and take any group
/// (capabilities(7): CAP_SETUID and CAP_SETGID).
pub fn may_change_user() -> bool {
    const SETGID: u64 = 1 << 6;
    const SETUID: u64 = 1 << 7;
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        return nix::unistd::geteuid().is_root();
    };
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    effective.is_some_and(|bits| bits & (SETUID | SETGID) == SETUID | SETGID)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        assert_eq!((uid_of("root"), uid_of("0"), gid_of("root")), (Some(0), Some(0), Some(0)));
        assert_eq!(uid_of("4711"), Some(4711));
        for nonsense in ["", "-1", "4294967295", "99999999999", "+1", "no-such-user-here"] {
            assert_eq!(uid_of(nonsense), None, "{nonsense}");
        }
        assert_eq!(account(0).expect("root").name, "root");
        assert_eq!(
            (user_name(0), user_name_in_passwd(0)),
            (Some("root".into()), Some("root".into()))
        );
    }

    #[test]
    fn the_file_has_names_by_number() {
        let file = b"root:x:0:0::/:\n+x:x:7:1\nbad\n:x:8:1\nanna:x:10:1\nother:x:10:1\nx:y:100:1";
        let name = |uid| user_name_of_line(file, uid);
        assert_eq!((name(0), name(10)), (Some("root".into()), Some("anna".into())));
        assert_eq!((name(7), name(8), name(1), name(100)), (None, None, None, Some("x".into())));
    }
}
