//! `contictl context`
//!
//! - this file: the contexts themselves;
//! - [`show`]: one of them, with what its certificate and its agent say;
//! - [`renew`]: another certificate for one.

mod renew;
mod show;

use std::path::{Path, PathBuf, absolute};

use clap::{Args, Subcommand};
use conti_shared::{endpoint::Endpoint, tls::ALPN_API};

use crate::{
    connect::tls,
    contexts::{Entry, check_name, files::Store},
    error::{Error, Result},
    output::{self, text},
    verb::Context,
};

/// Manage contexts: the agents that are known by a name
#[derive(Debug, Args)]
pub struct ContextVerb {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Add an agent with certificates of your own; --host says where it is
    ///
    /// `contictl join` adds one with an invitation.
    Add(Add),
    /// List contexts
    Ls,
    /// Make a context the current one: what is used where none is named
    Use {
        /// The context
        #[arg(required_unless_present = "none")]
        name: Option<String>,
        /// Have no current context: the agent of this machine is used
        #[arg(long, conflicts_with = "name")]
        none: bool,
    },
    /// Remove contexts, with the certificates and keys that `join` got for them
    Rm {
        /// Contexts
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Show a context, the certificate that belongs to it, and who the agent says that one is
    Show {
        /// The context; without it the current one
        name: Option<String>,
    },
    /// Get another certificate, with a new key, before the old one expires
    Renew {
        /// The context; without it the current one
        name: Option<String>,
    },
}

#[derive(Debug, Args)]
struct Add {
    /// What to call it
    name: String,
    /// The authorities that the agent's certificate may come from, PEM
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// This client's certificate, PEM
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Make it the current context
    #[arg(long = "use")]
    make_current: bool,
}

impl ContextVerb {
    /// Does it.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let store = Store::of_user()?;
        match self.verb {
            Verb::Add(flags) => flags.run(context, &store)?,
            Verb::Ls => show::list(context, &store)?,
            Verb::Use { name, .. } => store.change(|contexts| {
                if let Some(name) = &name {
                    contexts.get(name)?;
                }
                contexts.current = name;
                Ok(())
            })?,
            Verb::Rm { names } => {
                for name in names {
                    remove(&store, &name)?;
                }
            }
            Verb::Show { name } => {
                show::one(context, &store, &chosen(context, &store, name)?).await?
            }
            Verb::Renew { name } => {
                renew::run(context, &store, &chosen(context, &store, name)?).await?
            }
        }
        Ok(0)
    }
}

impl Add {
    fn run(self, context: &Context, store: &Store) -> Result<()> {
        check_name(&self.name)?;
        let host = context.agent.host.clone().ok_or_else(|| {
            Error::Usage(
                "say where the agent is: --host tcp://HOST, ssh://HOST or unix:///PATH".into(),
            )
        })?;
        let file = |own: Option<PathBuf>, flag: &Option<PathBuf>| {
            own.or_else(|| flag.clone()).map(|path| whole(&path)).transpose()
        };
        let mut entry = Entry::new(host);
        entry.tls_server_name = context.agent.tls_server_name.clone();
        entry.ca = file(self.ca, &context.agent.tls_ca)?;
        entry.certificate = file(self.cert, &context.agent.tls_cert)?;
        entry.key = file(self.key, &context.agent.tls_key)?;
        if matches!(entry.host, Endpoint::Tcp(_)) {
            // What cannot work is said now, and not when it is needed.
            tls::config(&entry.material(store), ALPN_API)?;
        }
        store.change(|contexts| {
            contexts.check_free(&self.name)?;
            if self.make_current {
                contexts.current = Some(self.name.clone());
            }
            contexts.contexts.insert(self.name.clone(), entry);
            Ok(())
        })?;
        output::line(&text::plain(&self.name))
    }
}

/// A path that means the same wherever contictl is started.
fn whole(path: &Path) -> Result<PathBuf> {
    absolute(path)
        .map_err(|source| Error::Local { what: "cannot find the working directory", source })
}

fn remove(store: &Store, name: &str) -> Result<()> {
    store.change(|contexts| {
        contexts.get(name)?;
        contexts.contexts.remove(name);
        if contexts.current.as_deref() == Some(name) {
            contexts.current = None;
        }
        Ok(())
    })?;
    store.forget(name)
}

/// The name that was given, or that of --context, or of the current context.
fn chosen(context: &Context, store: &Store, name: Option<String>) -> Result<String> {
    name.or_else(|| context.agent.context_name()).map_or_else(
        || {
            store.load()?.current.ok_or_else(|| {
                Error::Usage(
                    "there is no current context; name one, `contictl context ls` lists them"
                        .into(),
                )
            })
        },
        Ok,
    )
}
