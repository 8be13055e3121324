use super::*;
use crate::config::options::GatewayConfig;
use crate::config::recording_options::Format;
use crate::config::socket_options::SocketOptions;

fn of(config: &GatewayConfig, typed: &str) -> Result<Rules> {
    SocketOptions::parse(&OptionValue::of_option("forkpty-urouter2", typed.as_ref()))?
        .rules(config, 1)
}

fn read(typed: &str) -> Result<Rules> {
    of(&GatewayConfig::default(), typed)
}

#[test]
fn a_socket_has_its_own() {
    let rules = read(
        "addr=/run/x.sock,cmd=/bin/sh -c 'a\\,b',uid=4711,gid=12,groups=5;6,chdir=/srv,\
         env=A=1;B=2,rows=40,cols=132,allow_user=root;4711,root=deny,max=20,max_user=2,rate=5,\
         idle=15m,max_time=8h,handover=no,allow_command=true,sftp_server=/x,audit=json,record=off",
    )
    .expect("rules");
    assert_eq!(rules.command.to_bytes(), b"/bin/sh -c 'a,b'");
    let identity = rules.identity.expect("somebody");
    assert_eq!((identity.uid, identity.gid, identity.groups), (4711, 12, vec![5, 6]));
    assert_eq!(rules.environment, [c"A=1".to_owned(), c"B=2".to_owned()]);
    assert_eq!(rules.size, Size { rows: 40, cols: 132 });
    assert_eq!(rules.max_sessions.zip(rules.max_user_sessions).zip(rules.rate), Some(((20, 2), 5)));
    assert_eq!(rules.timeout, Some(Duration::from_secs(900)));
    assert_eq!(rules.max_time, Some(Duration::from_secs(28_800)));
    assert!(!rules.handover && rules.allow_command && rules.access.has_users());
    assert_eq!(rules.record.dir, None);
}

#[test]
fn a_socket_is_recorded_elsewhere_or_not_at_all() {
    let mut global = GatewayConfig::default();
    global.rules.record.dir = Some("/var/all".into());
    let of = |typed: &str| of(&global, &format!("addr=/s,{typed}")).expect(typed).record;
    assert_eq!(of("record=yes").dir, Some("/var/all".into()));
    assert_eq!(of("record=off").dir, None);
    let own = of("record=/var/own,record_input=yes,record_format=v2,record_limit=8192");
    assert_eq!((own.dir, own.input), (Some("/var/own".into()), true));
    assert_eq!((own.format, own.limit), (Format::V2, Some(8192)));
}

#[test]
fn a_key_takes_the_place_of_the_global_option() {
    let mut global = GatewayConfig::default();
    global.rules.size.rows = 50;
    global.rules.max_sessions = Some(9);
    global.rules.access.users.allow().push(1001);
    let rules = of(&global, "addr=/s,allow_user=1002,max=0").expect("rules");
    let peer = |uid| fpty::sys::credentials::Credentials { pid: 1, uid, gid: uid };
    assert!(rules.access.check_user(peer(1002), &[]).is_ok());
    assert!(rules.access.check_user(peer(1001), &[]).is_err());
    assert_eq!((rules.size.rows, rules.max_sessions), (50, None));
}

#[test]
fn nonsense_names_option_key_and_value() {
    for (typed, part) in [
        ("cmd=/bin/sh", "no addr"),
        ("addr=", "no addr"),
        ("addr=/s,x=1", "x: no such key"),
        ("addr=/s,record=perhaps", "record = perhaps"),
        ("addr=/s,record_limit=1", "record_limit = 1"),
        ("addr=/s,rows", "not a key=value"),
        ("addr=/s,rows=1,rows=2", "twice"),
        ("addr=/s,uid=no-such-user", "uid = no-such-user: no such user"),
        ("addr=/s,gid=no-such-group", "gid = no-such-group: no such group"),
        ("addr=/s,groups=root;no-such-group", "groups = no-such-group"),
        ("addr=/s,allow_user=no-such-user", "allow_user = no-such-user"),
        ("addr=/s,uid=4000000001", "gid= is needed"),
        ("addr=/s,idle=soon", "idle = soon: not a time"),
        ("addr=/s,max=-1", "max = -1"),
        ("addr=/s,rate=x", "rate = x"),
        ("addr=/s,chmod=999", "chmod = 999"),
        ("addr=/s,chown=no-such-user:", "chown = no-such-user:"),
        ("addr=/s,root=perhaps", "root = perhaps"),
        ("addr=/s,handover=perhaps", "handover = perhaps"),
        ("addr=/s,env=1A=x", "env = 1A=x"),
        ("addr=/s,allow_addr=10.0.0.0/8", "allow_addr = 10.0.0.0/8: only a TCP"),
        ("addr=:5000,allow_user=root", "allow_user = root: only a UNIX"),
        ("addr=:5000,allow_addr=10.0.0.0/40", "allow_addr = 10.0.0.0/40"),
        ("addr=:5000,chmod=600", "chmod = 600: only a UNIX"),
        ("addr=/s,audit=xml", "audit = xml"),
    ] {
        let error = read(typed).expect_err(typed).to_string();
        assert!(error.contains("forkpty-urouter2") && error.contains(part), "{error}");
    }
    assert!(read("addr=:5000,allow_addr=10.0.0.0/8").is_ok());
}
