//! Which arguments of which programs are secrets: a table.
//!
//! A program is known by its name wherever it stands in a command, so that nothing that comes before it
//! (`env`, `sudo -u joe`, `timeout 5`, `docker exec c`, …) hides it, whether that is known or not.

use Place::*;

use super::patterns::PATTERNS;

/// The arguments of a program that are secrets.
#[derive(Debug)]
pub struct Program {
    /// Its names. Two words: a subcommand. A final `*` stands for any rest.
    names: &'static [&'static str],
    /// Where its secrets stand.
    pub places: &'static [Place],
}

/// Where a secret stands. Flags are given as one text, with spaces between them.
#[derive(Debug)]
pub enum Place {
    /// Behind one of these flags, with a space or `=`; behind one of a single letter also with nothing between,
    /// and that may be the last of several that are written as one, as getopt(3) reads them.
    After(&'static str),
    /// Behind one of these flags, with a space or `=`: the program has long flags with one dash.
    Apart(&'static str),
    /// Behind one of these flags, with nothing between.
    Glued(&'static str),
    /// Behind a character, in the value of one of these flags. No flags: in an operand.
    Part(&'static str, char),
    /// Among the operands, from this one on.
    Operands(usize),
    /// The values of operands that are `NAME=value`.
    Values,
    /// Behind an operand that is a secret's name, or a path that ends with one.
    Named,
    /// The last operand, where one of the short flags is this.
    Last(char),
    /// What it reads, where one of these is among its arguments. None given: always.
    Input(&'static str),
    /// No secret: the values of these flags, which other programs take secrets with.
    Plain(&'static str),
    /// No secret: its words are what it looks for or works on, also where they are a secret's name.
    Words,
}

const PROGRAMS: &[Program] = &[
    // Databases.
    of(&["mysql*", "mariadb*"], &[Glued("-p"), Input("--defaults-extra-file --defaults-file")]),
    of(&["mycli", "mydumper", "myloader", "mytop", "pt-*"], &[After("-p")]),
    of(&["xtrabackup", "mariabackup", "innobackupex"], &[Glued("-p")]),
    of(&["mysql_config_editor"], &[Input("--password -p")]),
    of(&["mongo*"], &[After("-p")]),
    of(&["mysqladmin"], &[Named]),
    of(&["redis-cli", "valkey-cli"], &[After("-a masterauth MASTERAUTH"), Named]),
    of(&["acl setuser", "ACL SETUSER"], &[Glued("> <")]),
    of(&["set-initial-password", "reset-admin-password"], &[Operands(0)]),
    of(&["add_user", "change_password", "authenticate_user"], &[Operands(1)]),
    of(&["AUTH", "redis-cli auth"], &[Operands(0)]),
    of(&["sqlcmd", "bcp", "osql", "tsql"], &[After("-P")]),
    of(&["sqlplus", "sqlldr", "rman", "expdp", "impdp"], &[Part("", '/')]),
    of(&["cqlsh"], &[After("-p")]),
    of(&["influx", "clickhouse-client"], &[Apart("-p")]),
    of(&["etcdctl user"], &[Part("", ':')]),
    of(&["addauth"], &[Operands(1)]),
    // The web.
    of(&["curl"], &[Part(CURL, ':'), After("-b --cookie"), Input("-K --config")]),
    of(&["http", "https", "xh"], &[Part("-a --auth", ':')]),
    of(&["lftp", "ncftp"], &[Part("-u", ','), After("-p")]),
    of(&["mosquitto_*"], &[After("-P")]),
    of(&["swaks"], &[After("-ap")]),
    of(&["sendemail", "sendEmail"], &[After("-xp")]),
    // Other machines.
    of(&["sshpass"], &[After("-p"), Input("")]),
    of(&["ssh-add"], &[Input("")]),
    of(&["ssh-keygen"], &[After("-N -P")]),
    of(&["smb*", "samba-tool", "rpcclient", "winexe", "wmic", "net"], &[Part("-U --user", '%')]),
    of(&["mount*"], &[Part("-o --options", '%')]),
    of(&["wbinfo"], &[Part("-a -K --authenticate --krb5auth", '%')]),
    of(&["samba-tool user"], &[Operands(2)]),
    of(&["xfreerdp*", "wfreerdp*", "rdesktop"], &[After("-p"), Glued("/p: /password:")]),
    of(&["ipmitool"], &[After("-P")]),
    of(&["set password"], &[Operands(1)]),
    of(&["ip xfrm"], &[Operands(2)]),
    of(&["radtest"], &[Operands(1)]),
    of(&["radclient"], &[Operands(2)]),
    of(&["snmp*", "net-snmp-*"], &[After("-A -X -c")]),
    of(&["ldap*"], &[After("-w")]),
    of(&["ldappasswd", "slappasswd"], &[After("-a -s")]),
    of(&["nsupdate", "dig"], &[After("-y")]),
    of(&["send", "exp_send"], &[Operands(0)]),
    // Users of a machine.
    of(&["useradd", "usermod", "groupadd", "groupmod"], &[After("-p")]),
    of(&["htpasswd"], &[Last('b'), Input("-i")]),
    of(&["net user", "net use"], &[Operands(1)]),
    of(&["chpasswd", "chgpasswd", "newusers", "passwd", "smbpasswd", "kinit", "su"], &[Input("")]),
    of(&["pdbedit", "saslpasswd2", "vncpasswd", "realm", "adcli"], &[Input("")]),
    of(&["kadmin*"], &[After("-w")]),
    of(&["chpasswd", "chgpasswd"], &[Operands(0)]),
    of(&["kinit"], &[Operands(1)]),
    of(&["sudo", "doas"], &[Input("-S --stdin")]),
    of(&["mkpasswd", "cryptpw", "openssl passwd"], &[Operands(0), Input("")]),
    of(&["hash-password"], &[After("--plaintext")]),
    of(&["keyctl add"], &[Operands(2)]),
    // Ciphers and archives.
    of(&["openssl"], &[Apart("-k -K -hmac -psk"), Input("stdin fd:0")]),
    of(&["gpg", "gpg2"], &[Input("--passphrase-fd")]),
    of(&["cryptsetup"], &[Input("")]),
    of(&["zip", "unzip"], &[After("-P")]),
    of(&["7z*"], &[Glued("-p")]),
    of(&["rar", "unrar"], &[Glued("-p -hp")]),
    of(&["pdf*", "qpdf"], &[After("-upw -opw user_pw owner_pw input_pw")]),
    of(&["oathtool", "rclone obscure"], &[Operands(0)]),
    of(&["pk12util"], &[After("-W -K")]),
    of(&["signtool*"], &[After("/p")]),
    of(&["yubico-piv-tool", "ykman", "tpm2_*"], &[After("-P")]),
    of(&["systemd-creds", "secret-tool"], &[Input("")]),
    of(&["pass insert", "gopass insert"], &[Input("")]),
    of(&["encrypt_string"], &[Operands(0), Input("")]),
    of(&["ConvertTo-SecureString"], &[Operands(0)]),
    of(&["secret-set-value"], &[Operands(1)]),
    // Wireless networks.
    of(&["wpa_passphrase"], &[Operands(1), Input("")]),
    of(&["nmcli", "wpa_cli"], &[Named]),
    of(&["wg"], &[Named, Input("private-key preshared-key")]),
    of(&["iwconfig", "iw"], &[After("key")]),
    // Settings and values, each by its name.
    of(&["crudini", "augtool", "etcdctl", "uci", "gsettings", "dconf", "debconf*"], &[Named]),
    of(&["git config", "snap set", "configure set", "config set"], &[Named]),
    of(&["rclone", "poetry config", "composer config", "set", "setenv"], &[Named]),
    of(&["debconf-set-selections"], &[Input("")]),
    // Registries, clouds and stores of secrets.
    of(&["login"], &[After("-p -t"), Input("--password-stdin --with-token --stdin")]),
    of(&["vault login", "authtoken", "add-authtoken"], &[Operands(0), Input("")]),
    of(&["cf auth", "cloudflared service"], &[Operands(1)]),
    of(&["consul", "nomad", "serf"], &[Apart("-encrypt")]),
    of(&["put-parameter"], &[After("--value")]),
    of(&["patch secret", "patch secrets"], &[After("-p --patch")]),
    of(&["nuget push"], &[After("-k")]),
    of(&["admin user"], &[Operands(3)]),
    of(&["chamber write"], &[Operands(2)]),
    of(&["vault unseal", "operator unseal", "operator rekey"], &[Operands(0)]),
    of(&["operator generate-root", "bw unlock", "snyk auth", "cargo login"], &[Operands(0)]),
    of(&["bw login"], &[Operands(1)]),
    of(&["gitlab-runner"], &[Apart("-r")]),
    of(&["doctl", "vercel"], &[Apart("-t")]),
    of(&["vault write", "secrets set", "config:set"], &[Values, Input("")]),
    of(&["secret put", "secrets import", "versions add"], &[Input("")]),
    of(&["kv put", "kv patch"], &[Operands(1), Values, Input("")]),
    of(&["create secret"], &[After("--from-literal"), Input("")]),
    of(&["secret create"], &[Input("")]),
    of(&["secret set"], &[After("-b --body --value"), Operands(1), Input("")]),
    of(&["configure set", "config set"], &[Operands(1)]),
    of(&["alias set", "host add"], &[Operands(3)]),
    // Those that take words as they are.
    of(
        &["grep", "egrep", "fgrep", "zgrep", "rg", "ag", "ack", "git", "find", "fd", "locate"],
        &[Words],
    ),
    of(&["man", "apropos", "which", "whereis", "getent", "info", "help", "apt*", "dnf"], &[Words]),
    of(&["yum", "apk", "pacman", "brew", "systemctl", "ls", "cat", "read", "test"], &[Words]),
    // Those of which `-p` is known to be something else.
    of(&["mkdir", "cp", "install", "rmdir", "cargo"], &[Plain("-p")]),
];

const CURL: &str = "-u -U --user --proxy-user -E --cert --proxy-cert";

const fn of(names: &'static [&'static str], places: &'static [Place]) -> Program {
    Program { names, places }
}

/// The rules of a word that may be the name of a program, or with the one before it a subcommand.
pub fn known(before: &str, word: &str) -> impl Iterator<Item = &'static Program> {
    let (before, word) = (base(before).to_owned(), base(word).to_owned());
    PROGRAMS
        .iter()
        .filter(move |program| program.names.iter().any(|name| fits(name, &before, &word)))
}

/// Whether a file is known to hold secrets.
pub fn is_secret_file(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    let named = || PATTERNS.file.is_match(path) && path != "/etc/passwd";
    path == "/etc/shadow" || SECRET_FILES.contains(&name) || named()
}

const SECRET_FILES: [&str; 11] = [
    ".pgpass",
    ".netrc",
    ".my.cnf",
    ".htpasswd",
    ".git-credentials",
    ".vault-token",
    ".npmrc",
    ".pypirc",
    "id_rsa",
    "id_ecdsa",
    "id_ed25519",
];

/// Whether one of these flags is that word.
pub fn has(flags: &str, word: &str) -> bool {
    flags.split(' ').any(|flag| !flag.is_empty() && flag == word)
}

/// The name of a program by its path. What lies in /etc is none: `/etc/passwd` is read by many.
fn base(word: &str) -> &str {
    if word.starts_with("/etc/") { "" } else { word.rsplit('/').next().unwrap_or_default() }
}

fn fits(name: &str, before: &str, word: &str) -> bool {
    match (name.split_once(' '), name.strip_suffix('*')) {
        (Some((first, second)), _) => first == before && second == word,
        (None, Some(start)) => word.starts_with(start),
        (None, None) => name == word,
    }
}
