//! The command line as a whole.

use std::ffi::OsString;

use clap::{Args, Command, FromArgMatches as _, Parser, Subcommand};

use crate::{
    error::Error,
    flags::agent::AgentFlags,
    output::{Format, text},
    verb,
};

/// Runs, enters and streams Linux containers on any machine that runs contid
#[derive(Debug, Parser)]
#[command(
    name = "contictl",
    version,
    max_term_width = 100,
    after_help = "Exit codes: the command's own; 124 deadline; 125 Conti failed; 126 the command \
                  could not be run; 127 it was not found; 128+N signal N ended it."
)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub verb: Verb,
}

/// The flags of all verbs.
#[derive(Debug, Args)]
pub struct Common {
    #[command(flatten)]
    pub agent: AgentFlags,
    /// How data is shown
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "table|json",
        default_value = "table",
        hide_possible_values = true
    )]
    pub output: Format,
}

impl Cli {
    /// Reads a command line, the program's name included.
    ///
    /// To describe all verbs takes longer than many a call of the agent. So those that programs call again and
    /// again are tried alone first; what is not understood that way goes the long one, which has the words.
    pub fn read(line: &[OsString]) -> Result<Cli, clap::Error> {
        Cli::read_one(line).map_or_else(|| Cli::try_parse_from(line), Ok)
    }

    fn read_one(line: &[OsString]) -> Option<Cli> {
        type Describe = fn(Command) -> Command;
        let (name, describe): (&'static str, Describe) = match line.get(1)?.to_str()? {
            "run" => ("run", verb::run::Run::augment_args),
            "exec" => ("exec", verb::exec::Exec::augment_args),
            "enter" => ("enter", verb::enter::Enter::augment_args),
            "create" => ("create", verb::create::Create::augment_args),
            "start" => ("start", verb::start::Start::augment_args),
            "rm" => ("rm", verb::rm::Rm::augment_args),
            "ps" => ("ps", verb::ps::Ps::augment_args),
            _ => return None,
        };
        let verb = describe(Command::new(name));
        let command = Common::augment_args(Command::new("contictl")).subcommand(verb);
        Cli::from_arg_matches(&command.try_get_matches_from(line).ok()?).ok()
    }
}

/// Why the arguments of a line that are no text cannot be used. `None`: all are text.
pub fn no_text(line: &[OsString]) -> Option<Error> {
    let bad = line.iter().filter(|argument| argument.to_str().is_none());
    let shown: Vec<String> =
        bad.map(|argument| format!("\"{}\"", text::bytes(argument.as_encoded_bytes()))).collect();
    let (subject, them) = match shown.len() {
        0 => return None,
        1 => ("this argument is", "it"),
        _ => ("these arguments are", "them"),
    };
    Some(Error::Usage(format!(
        "{subject} no text (UTF-8), which is all that the API takes: {}; a shell in there can reach {them} by a \
         pattern, e.g. `contictl exec CONTAINER -- sh -c 'cat /data/x?'`",
        shown.join(", ")
    )))
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub enum Verb {
    Run(Box<verb::run::Run>),
    Create(Box<verb::create::Create>),
    Start(verb::start::Start),
    Stop(verb::stop::Stop),
    Kill(verb::kill::Kill),
    Rm(verb::rm::Rm),
    Ps(verb::ps::Ps),
    Inspect(verb::inspect::Inspect),
    Wait(verb::wait::Wait),
    Attach(verb::attach::Attach),
    Exec(Box<verb::exec::Exec>),
    Enter(Box<verb::enter::Enter>),
    Unshare(Box<verb::unshare::Unshare>),
    Debug(Box<verb::debug::Debug>),
    Sessions(verb::sessions::Sessions),
    Ns(verb::ns::Ns),
    Mounts(verb::mounts::Mounts),
    Mount(Box<verb::mount::MountVerb>),
    Umount(verb::umount::Umount),
    Procs(verb::procs::Procs),
    Top(verb::top::Top),
    Net(verb::net::Net),
    Sockets(verb::sockets::Sockets),
    Ls(verb::ls::Ls),
    Cat(verb::cat::Cat),
    Du(verb::du::Du),
    Rootfs(verb::rootfs::Rootfs),
    Context(Box<verb::context::ContextVerb>),
    Join(verb::join::Join),
    Invite(Box<verb::invite::Invite>),
    Pki(verb::pki::Pki),
    Whoami(verb::whoami::Whoami),
    Proxy(verb::proxy::Proxy),
    Info(verb::info::Info),
    Version(verb::version::Version),
    Completion(verb::completion::Completion),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn no_flag_contradicts_another() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_lines_of_the_manual_are_understood() {
        let mut alone = 0;
        for line in [
            "run --rm -- true",
            "run -it --rm --name a --hostname h -e K=V -w /d -u u:g -v /a:/b:ro --ns net=host true",
            "run -d --mount type=tmpfs,dst=/t --rootfs dir:/r --device /dev/fuse --cap-add A -- x",
            "create --cap-drop ALL --privileged --read-only --init -l k=v -- x",
            "start a b",
            "stop -s TERM -t 5 a",
            "kill -s HUP a",
            "rm -f a b",
            "ps -a -q --filter label=k=v --filter state=running",
            "inspect a",
            "wait a",
            "attach a",
            "exec -i -t -e K=V -w /d -u u a -- ls -l",
            "exec -d a ls -l",
            "enter --target 1 -m -u -i -n -p -C -U -T -r -w -e -S -G -- ps",
            "enter -t 1 -a -- ps",
            "enter a -- ps",
            "enter a -n -- ip addr",
            "unshare --mount -- /bin/bash",
            "unshare -m -u -i -n -p -C -U -T --mount-proc --propagation slave -- sh",
            "debug web",
            "debug --tools dir:/srv/tools web -- strace -p 1",
            "debug --tools host --cap-add SYS_PTRACE pid:7 -- sh",
            "sessions",
            "sessions --state running web",
            "sessions recordings -q",
            "sessions replay 0123456789abcdef0123456789abcdef",
            "sessions replay --speed 2 --max-wait 1s --raw-file out.cast x",
            "exec --record -it web -- sh",
            "ns ls",
            "ns ls --type mnt web",
            "ns show pid:1",
            "ns tree",
            "mounts web",
            "mount web /srv:/srv:ro --mkdir --dry-run",
            "mount pid:7 type=tmpfs,dst=/t --idmapped --from a",
            "umount web /srv --lazy",
            "umount --id 0123456789abcdef0123456789abcdef",
            "mounts --list --type ext4 --source /dev/sda --point / host",
            "procs web",
            "procs --tree pid:7",
            "top host",
            "top -d 0.5 -n 3 --sort mem web",
            "net web",
            "net --links --routes --all-tables --neighbours host",
            "sockets web",
            "sockets -tul pid:1",
            "sockets -x --no-owners host",
            "ls web",
            "ls -U pid:7 /etc",
            "cat web /etc/hosts /etc/hostname",
            "cat --offset 1 --limit 2 host /etc/passwd",
            "du web",
            "du -x --max-depth 2 --top 10 web /var /usr",
            "rootfs build --from-host bash,ls,/usr/bin/ps --out /srv/root",
            "rootfs build --from-host sh --out -",
            "info -o json",
            "version",
            "completion bash",
            "context add web --host tcp://web --ca ca.pem --cert c.pem --key k.pem --use",
            "context add web --host ssh://me@web:22",
            "context ls",
            "context use web",
            "context use --none",
            "context rm a b",
            "context show",
            "context show web",
            "context renew web",
            "join conti-abc",
            "join - --context web --use --address web:7443 --tls-server-name web",
            "invite --role operator --name alice --expires 1h --cert-expires 90d --address web",
            "invite ls",
            "invite rm 0123456789abcdef",
            "pki ls",
            "pki revoke alice",
            "whoami",
            "proxy",
            "proxy --host unix:///x",
            "--host tcp://web:1 --tls-ca a --tls-cert b --tls-key c --tls-server-name d ps",
            "--context web --reason 4711 ps",
            "--host unix:///x ps",
            "ps --host unix:///x",
        ] {
            let args = std::iter::once("contictl").chain(line.split(' '));
            let args: Vec<OsString> = args.map(OsString::from).collect();
            let read = Cli::try_parse_from(&args);
            assert!(read.is_ok(), "{line}");
            if let Some(one) = Cli::read_one(&args) {
                assert_eq!(format!("{one:?}"), format!("{:?}", read.expect("it was read")));
                alone += 1;
            }
        }
        assert!(alone > 10, "the short way is taken");
        for line in [
            "run",
            "exec a",
            "enter --target 1 a -- ps",
            "enter -- ps",
            "enter --target 0 -- ps",
            "ps --filter colour=red",
            "stop",
            "umount",
            "umount web",
            "umount --id x web /srv",
            "mount web",
            "cat web",
            "rootfs build --out /srv/root",
            "context",
            "context use",
            "context use --none web",
            "join",
            "invite",
            "invite --role operator",
            "invite --role root --name alice",
            "invite --role guest --name alice",
            "pki",
            "debug",
            "debug --tools image:x web",
            "top",
            "top -d 0 web",
            "top -d nan web",
            "du",
            "kill -s FOO a",
            "sessions replay",
            "sessions replay --speed -1 x",
            "--host tcp://x:y ps",
        ] {
            let args = std::iter::once("contictl").chain(line.split(' '));
            let args: Vec<OsString> = args.map(OsString::from).collect();
            assert!(Cli::read(&args).is_err(), "{line}");
        }
    }
}
