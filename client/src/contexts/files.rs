//! The directory of the contexts: only for its user, and never half written.
//!
//! ```text
//! config.toml                     the contexts
//! config.lock                     held while one changes it
//! certificates/NAME/authority.pem what `join` got: the authority of the agent
//! certificates/NAME/client.pem    this client's certificate with its key: one file, so that the two are
//!                                 always replaced together
//! ```

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use etcetera::BaseStrategy as _;

use crate::{
    contexts::{Contexts, Entry},
    error::{Error, Result},
};

const CONFIG: &str = "config.toml";
const LOCK: &str = "config.lock";
const CERTIFICATES: &str = "certificates";
const AUTHORITY: &str = "authority.pem";
const CLIENT: &str = "client.pem";

/// The directory of the contexts.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

/// What `join` and `renew` get: PEM.
#[derive(Debug)]
pub struct Credentials {
    /// The authority of the agent.
    pub authority: String,
    /// This client's certificate with what leads to its authority.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Store {
    /// That of this user, which need not exist: `$XDG_CONFIG_HOME/conti`, `~/.config/conti`, or where the
    /// system keeps such things.
    pub fn of_user() -> Result<Store> {
        let place = etcetera::base_strategy::choose_native_strategy().map_err(|error| {
            Error::Usage(format!("there is no place for contexts: {error}; set $HOME"))
        })?;
        Ok(Store { directory: place.config_dir().join("conti") })
    }

    /// The absolute path of a file.
    pub fn path(&self, path: &Path) -> PathBuf {
        self.directory.join(path)
    }

    /// The file of the contexts.
    pub fn config(&self) -> PathBuf {
        self.directory.join(CONFIG)
    }

    /// Reads the contexts.
    pub fn load(&self) -> Result<Contexts> {
        let path = self.config();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contexts::default()),
            Err(error) => return Err(failed("read", &path, &error)),
        };
        toml::from_str(&text).map_err(|error| {
            Error::Usage(format!("{} cannot be understood: {}", path.display(), error.message()))
        })
    }

    /// Changes the contexts; no other contictl does so meanwhile. After an error they are as before.
    pub fn change<T>(&self, change: impl FnOnce(&mut Contexts) -> Result<T>) -> Result<T> {
        make_directory(&self.directory)?;
        let path = self.directory.join(LOCK);
        let at = |error| failed("lock", &path, &error);
        let lock = File::options().create(true).append(true).open(&path).map_err(at)?;
        lock.lock().map_err(at)?;
        let mut contexts = self.load()?;
        let result = change(&mut contexts)?;
        let text = toml::to_string(&contexts)
            .map_err(|error| Error::Usage(format!("the contexts cannot be written: {error}")))?;
        let text =
            format!("# Kept by contictl: comments are lost when it changes something.\n{text}");
        replace(&self.config(), text.as_bytes())?;
        Ok(result)
    }

    /// Sees to it that what a context is to get can be kept.
    pub fn prepare(&self, name: &str) -> Result<()> {
        make_directory(&self.directory.join(CERTIFICATES).join(name))
    }

    /// Keeps what a context got; `entry` is told the files.
    pub fn keep(&self, name: &str, credentials: &Credentials, entry: &mut Entry) -> Result<()> {
        self.prepare(name)?;
        let Credentials { authority, certificate, key } = credentials;
        let directory = Path::new(CERTIFICATES).join(name);
        let (ca, client) = (directory.join(AUTHORITY), directory.join(CLIENT));
        replace(&self.path(&ca), authority.as_bytes())?;
        replace(&self.path(&client), format!("{certificate}{key}").as_bytes())?;
        (entry.ca, entry.certificate, entry.key) = (Some(ca), Some(client.clone()), Some(client));
        Ok(())
    }

    /// Removes what was kept of a context, if anything was.
    pub fn forget(&self, name: &str) -> Result<()> {
        let path = self.directory.join(CERTIFICATES).join(name);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &path, &error))
            }
            _ => Ok(()),
        }
    }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Error {
    Error::Usage(format!("cannot {what} {}: {error}", path.display()))
}

/// Makes a directory that only this user can look into, and those above it.
fn make_directory(path: &Path) -> Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|error| failed("make", path, &error))
}

/// Replaces a file as a whole: whoever reads it sees the old one or the new one. It is its user's alone.
fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let write = || {
        let directory = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        // The new name survives a crash, too.
        #[cfg(unix)]
        File::open(directory)?.sync_all()?;
        Ok(())
    };
    write().map_err(|error: io::Error| failed("write", path, &error))
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn entry() -> Entry {
        Entry::new("tcp://web".parse().unwrap())
    }

    #[test]
    fn what_is_kept_is_its_users_alone_and_goes_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store { directory: dir.path().join("a/conti") };
        assert!(store.load().unwrap().contexts.is_empty());
        let credentials = Credentials {
            authority: "a\n".to_owned(),
            certificate: "c\n".to_owned(),
            key: "k\n".to_owned(),
        };
        let mut entry = entry();
        store.keep("web", &credentials, &mut entry).unwrap();
        store.change(|contexts| Ok(contexts.contexts.insert("web".into(), entry.clone()))).unwrap();
        let material = store.load().unwrap().get("web").unwrap().material(&store);
        assert_eq!(material.certificate, material.key);
        let client = material.key.unwrap();
        assert_eq!(fs::read_to_string(&client).unwrap(), "c\nk\n");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&client), 0o600);
        assert_eq!(mode(&store.config()), 0o600);
        for directory in [client.parent().unwrap(), &store.directory] {
            assert_eq!(mode(directory), 0o700);
        }
        store.forget("web").unwrap();
        store.forget("web").unwrap();
        assert!(!client.exists());
    }

    #[test]
    fn a_change_that_fails_leaves_everything_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store { directory: dir.path().to_owned() };
        store.change(|contexts| Ok(contexts.contexts.insert("a".into(), entry()))).unwrap();
        let before = fs::read(store.config()).unwrap();
        let failed = store.change(|contexts| {
            contexts.contexts.clear();
            Err::<(), _>(Error::Usage("no".to_owned()))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(store.config()).unwrap(), before);
        let names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "the configuration and its lock: {names:?}");
    }
}
