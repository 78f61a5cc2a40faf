//! Fuzz targets: commands and scripts that are to stand in a log without their secrets.

use conti_fuzz::target;

use super::{ARGUMENT_MAX, ARGUMENTS_MAX, argv, env_names, script, text};

/// Words, parted by NUL bytes.
fn words(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes).split('\0').map(str::to_owned).collect()
}

#[test]
fn fuzz_redacted_command() {
    let samples = || {
        let all: [&[u8]; 5] = [
            b"bash\0-c\0(echo a:$(x -p y); z `w`) | chpasswd < <(echo me:hunter2) > >(tee f) --token \"$(v \"u\")\"",
            b"sh\0-c\0mysql --password='hun ter2' db; export A_TOKEN=\"x y\" B=1",
            b"curl\0-u\0me:hunter2\0-H\0Authorization: Bearer abc\0https://a:b@host/x?token=y",
            b"docker\0run\0-e\0KEY=v\0image\0bash\0-c\0ssh host \"sudo -u x sh -c 'passwd $(cat f)'\"",
            b"psql\0postgres://u:p@h/d\0AKIAIOSFODNN7EXAMPLE\0wJalrXUtnFEMI/K7MDENG+bPxRfiCYKEY1=",
        ];
        all.map(<[u8]>::to_vec).into()
    };
    target("redacted_command").seeds(samples).runs(300).memory(4096).fixed_memory(4 << 20).check(
        |bytes| {
            let words = words(bytes);
            let shown = argv(&words);
            assert!(shown.len() <= ARGUMENTS_MAX + 1);
            assert!(shown.iter().all(|word| word.len() <= ARGUMENT_MAX + 32));
            // A word that gives a secret away does so whatever stands around it.
            let mut with_secret = vec!["x".to_owned(), "--password=zQhunter2zQ".to_owned()];
            with_secret.extend(words.iter().take(ARGUMENTS_MAX - 2).cloned());
            assert!(!argv(&with_secret).concat().contains("zQhunter2zQ"));
            assert!(env_names(&words).iter().all(|name| name.len() <= 300));
        },
    );
}

#[test]
fn fuzz_script() {
    let samples = || {
        let all: [&[u8]; 4] = [
            b"(a <(b $(c) `d`) >(e); { f \"$(g \"h\")\"; }) | while x; do y; done | if z; then w; fi",
            b"a 'b c' \"d $(e `f`)\" <<EOF >x 2>&1 | g; h && i || j\nbody $(k)\nEOF\n# comment\n",
            b"cat <<-'A' <<B <<< word\n\tone\nA\ntwo\nB\nwhile x; do y; done & { z; } (w)\n",
            "a\\\nb \u{e9}\u{202e} ${x:-y} $((1+2)) case x in (a) b;; esac".as_bytes(),
        ];
        all.map(<[u8]>::to_vec).into()
    };
    target("script").seeds(samples).memory(1024).check(|bytes| {
        let script = String::from_utf8_lossy(bytes);
        let mut words = 0;
        let read = script::read(&script);
        for word in read.commands.iter().flat_map(|command| &command.words) {
            // Panics where it is not at the border of a character. Three characters stand for a substitution.
            assert!(word.text.len() <= 3 * script[word.span.clone()].len());
            words += 1;
        }
        assert!(words <= script.len());
        // Time and memory go with the length.
        assert!(read.commands.len() <= 2 * script.len() + 1);
        assert!(read.gives.len() <= 2 * script.len() + 1);
    });
}

#[test]
fn fuzz_redacted_text() {
    let samples = || {
        let all: [&[u8]; 4] = [
            b"<a:token x=\"y\"><![CDATA[z]]></a:token> s/@PW@/x/ sub(/key/, \"y\") os[\"PIN\"] = `z` --seed=$(a) (x --pw b);",
            b"login me password hunter2, Authorization: Basic abc==; token => \"x\"",
            b"https://hooks.slack.com/services/T0/B0/x ghp_0123456789abcdefghij pass:a",
            b"-----BEGIN RSA PRIVATE KEY-----\nabc\n identified by 'x' eyJhbGciOi.eyJzdWIiOi.abc",
        ];
        all.map(<[u8]>::to_vec).into()
    };
    target("redacted_text").seeds(samples).runs(500).memory(2048).fixed_memory(4 << 20).check(
        |bytes| {
            let plain = String::from_utf8_lossy(bytes);
            let shown = text(&plain).into_owned();
            let marks =
                plain.len() + shown.matches(super::REDACTED).count() * super::REDACTED.len();
            assert!(shown.len() <= marks, "nothing but marks is added");
        },
    );
}
