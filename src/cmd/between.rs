//! `haul cp` from server to server: on one server, that copies; between two, the data goes through
//! this machine.

use super::backup::backup_there;
use super::carry::{self, Ends, Job};
use super::connect::{self, ConnectArgs, Notices, Purpose};
use super::deletion::{self, Deletion};
use super::failure::Failure;
use super::get::{any_dir, names_of};
use super::locate::{locate, locate_all};
use super::patterns::{self, Patterns};
use super::remote::Remote;
use super::remote_sources::{Sources, pairs_of};
use super::screen;
use super::transfer::TransferArgs;
use crate::net::client::Client;
use crate::net::client::copy::ServerCopy;
use crate::net::client::direct::Direct;
use crate::net::client::relay::RelayedSources;
use crate::net::client::requests::{GetSources, IfMissing, PutDestination};
use crate::net::deletion::place::Place;
use crate::net::transfer::filter::MAX_SENT_FILTER;
use crate::net::transfer::options::Options;
use crate::net::transfer::report::Reporter;
use crate::net::wire::INITIAL_WINDOW;
use crate::net::{NetError, printable};
use crate::store::{Kind, RemotePath};
use std::ffi::OsString;
use std::sync::{Arc, OnceLock};

/// What is copied from server to server.
pub(super) struct Between {
    /// On one server.
    pub(super) sources: Vec<Remote>,
    /// On the same or another one.
    pub(super) destination: Remote,
    /// The arguments that are no options.
    pub(super) paths: Vec<OsString>,
}

/// Copies.
pub(super) async fn copy(
    between: Between,
    args: &TransferArgs,
    connect: &ConnectArgs,
) -> Result<(), Failure> {
    let Between {
        sources,
        destination,
        paths,
    } = between;
    let patterns = match args.is_recursive() {
        true => Patterns::Outermost,
        false => Patterns::All,
    };
    let sources = patterns::expand_all(sources, connect, patterns).await?;
    let sources = locate_all(&sources, connect).await?;
    let destination = locate(&destination, connect).await?;
    let sources = Sources::of(sources, args)?;
    let mut options = args.options(sources.remotes.len(), &paths)?;
    backup_there(&mut options, &destination)?;
    check(&sources.remotes, args, &options)?;
    let copy = PreparedCopy {
        names: names_of(&sources.remotes)?,
        sources,
        destination,
    };
    args.deletion.check_places(&copy.places())?;
    match is_one_server(&copy, connect)? {
        true => copy.within_server(args, options, connect).await,
        false => copy.between_servers(args, options, connect).await,
    }
}

/// Refuses what no server would take.
fn check(sources: &[Remote], args: &TransferArgs, options: &Options) -> Result<(), Failure> {
    if options.filter.to_wire().len() > MAX_SENT_FILTER {
        return Err(Failure::usage("the rules of a copy between servers have at most 32 KiB")
            .hint("use fewer patterns, or wider ones"));
    }
    if args.remove_source_files {
        return Err(Failure::usage(
            "--remove-source-files: haul does not remove at a server what it copies",
        )
        .hint("use haul mv within a server, or haul rm when it has succeeded"));
    }
    let contents = sources.iter().find(|source| source.means_contents());
    match contents.filter(|_| !options.recursive) {
        Some(dir) => {
            Err(Failure::usage(format!("{}: is a directory", dir.shown))
                .hint("use -r for directories"))
        }
        None => Ok(()),
    }
}

/// True where sources and destination are on one server, and of one user there.
fn is_one_server(copy: &PreparedCopy, connect: &ConnectArgs) -> Result<bool, Failure> {
    let Some(first) = copy.sources.remotes.first() else {
        return Ok(true);
    };
    if let Some(other) = copy.sources.remotes.iter().find(|source| source.server != first.server) {
        let (other, first) = (&other.shown, &first.shown);
        return Err(Failure::usage(format!("{other} is on another server than {first}"))
            .hint("copy from one server at a time"));
    }
    let (from, to) = (&first.server, &copy.destination.server);
    Ok(from == to || connect::is_same_login(from, to, connect)?)
}

/// Which way the data between two servers goes.
struct Way {
    /// The user reads it.
    says: bool,
    is_through_here: OnceLock<()>,
}

impl Way {
    /// It goes through this machine, from now on.
    fn goes_through_here(&self, why: &str) {
        if self.is_through_here.set(()).is_ok() && self.says {
            screen::say(&format!("haul: {}", printable(why)));
        }
    }
}

/// A copy whose sources are known.
struct PreparedCopy {
    sources: Sources,
    /// The name of each in a directory that receives it.
    names: Vec<RemotePath>,
    destination: Remote,
}

impl PreparedCopy {
    /// Where each source goes, and what the user calls it.
    fn places(&self) -> Vec<(RemotePath, String)> {
        self.sources.places(&self.names)
    }

    fn put_destination(&self, if_missing: IfMissing) -> PutDestination {
        PutDestination {
            path: self.destination.path.as_bytes().to_vec(),
            directory: self.destination.directory,
            names: self.names.iter().map(|name| name.as_bytes().to_vec()).collect(),
            if_missing,
        }
    }

    /// What becomes of a destination where nothing is.
    async fn if_missing(&self, client: &Client, recursive: bool) -> Result<IfMissing, NetError> {
        let has_contents = self.sources.remotes.iter().any(Remote::means_contents);
        let makes = recursive && (has_contents || any_dir(client, &self.sources.remotes).await?);
        Ok(match makes {
            true => IfMissing::Make,
            false => IfMissing::Name,
        })
    }

    /// Has the server copy within itself.
    async fn within_server(
        &self,
        args: &TransferArgs,
        options: Options,
        connect: &ConnectArgs,
    ) -> Result<(), Failure> {
        let shown = &self.destination.shown;
        let mut session = connect::open(&self.destination.server, connect, args.purpose()).await?;
        let recursive = options.recursive;
        let asked = session.ask(async |client| self.if_missing(client, recursive).await).await;
        let if_missing = asked.map_err(|e| Failure::about(shown, e))?;
        let destination = self.put_destination(if_missing);
        let once = async |client: Arc<Client>, options: Options, reporter: Reporter| {
            if args.makes_path() {
                client.make_path(&destination).await?;
            }
            let copy = async |options: Options| {
                for sources in self.sources.requests() {
                    let copy = ServerCopy {
                        mirror: args.deletion.is_wanted(),
                        ..self.server_copy(sources, &destination)
                    };
                    client.copy(copy, options.clone(), reporter.clone()).await?;
                }
                Ok::<(), NetError>(())
            };
            copy(options.clone()).await?;
            let what = (args, &destination, &options);
            self.delete((&client, &client), what, &reporter, copy).await
        };
        let job = Job {
            verb: "cp",
            args,
            options,
            about: shown,
        };
        carry::carry(session, job, once, || true).await
    }

    /// Has the one server send to the other, or passes everything on between sessions with both.
    async fn between_servers(
        &self,
        args: &TransferArgs,
        options: Options,
        connect: &ConnectArgs,
    ) -> Result<(), Failure> {
        let Some(first) = self.sources.remotes.first() else {
            return Ok(());
        };
        let (shown, purpose) = (&self.destination.shown, args.purpose());
        let mut to = connect::open(&self.destination.server, connect, purpose).await?;
        let logged_in = to.ask(async |client| client.logged_in().await).await;
        logged_in.map_err(|e| Failure::about(shown, e))?;
        // what is sent on is limited, and may be as much as the one takes
        let purpose = Purpose {
            rate: None,
            window: INITIAL_WINDOW,
            ..purpose
        };
        let mut from = connect::open(&first.server, connect, purpose).await?;
        let recursive = options.recursive;
        let asked = from.ask(async |client| {
            client.logged_in().await?;
            self.if_missing(client, recursive).await
        });
        let if_missing = asked.await.map_err(|e| Failure::about(&first.shown, e))?;
        let way = Way {
            says: purpose.notices == Notices::Shown && !args.json,
            is_through_here: OnceLock::new(),
        };
        let destination = self.put_destination(if_missing);
        let once = async |ends: Ends, options: Options, reporter: Reporter| {
            let Ends { client, from } = ends;
            let Some(from) = from else { return Ok(()) };
            if args.deletion.is_wanted() && client.is_write_only() {
                return Err(deletion::not_for_writers());
            }
            if args.makes_path() {
                client.make_path(&destination).await?;
            }
            let servers = (&*from, &*client);
            let copy =
                async |options| self.send(&way, servers, (&destination, options), &reporter).await;
            copy(options.clone()).await?;
            let what = (args, &destination, &options);
            self.delete((&from, &client), what, &reporter, copy).await
        };
        let job = Job {
            verb: "cp",
            args,
            options,
            about: shown,
        };
        carry::carry_between((to, Some(from)), job, once, || true).await
    }

    /// Has the one server send to the other, or passes everything on.
    async fn send(
        &self,
        way: &Way,
        (from, to): (&Client, &Client),
        (destination, options): (&PutDestination, Options),
        reporter: &Reporter,
    ) -> Result<(), NetError> {
        for sources in self.sources.requests() {
            let copy = self.server_copy(sources.clone(), destination);
            if self.is_sent(way, (from, to), (copy, &options), reporter).await? {
                continue;
            }
            let what = (self.relayed(from, sources).await?, destination.clone());
            let mut options = options.clone();
            if !to.served_store().is_empty() {
                // a bucket takes parts of files, which the sender must be able to have outstanding
                from.borrow().await?;
                options.sender_window = from.window().unwrap_or(0);
            }
            to.relay(from, what, options, reporter.clone()).await?;
        }
        Ok(())
    }

    /// Has the one server send to the other, if it can.
    async fn is_sent(
        &self,
        way: &Way,
        (from, to): (&Client, &Client),
        (copy, options): (ServerCopy, &Options),
        reporter: &Reporter,
    ) -> Result<bool, NetError> {
        if way.is_through_here.get().is_some() {
            return Ok(false);
        }
        if !from.sends_to_others() {
            way.goes_through_here("the data goes from server to server through this machine");
            return Ok(false);
        }
        match from.send_to(to, copy, options.clone(), reporter.clone()).await? {
            Direct::Done => Ok(true),
            Direct::NotPossible(why) => {
                let servers = format!("{} does not send to {}", from.server(), to.server());
                way.goes_through_here(&format!("{servers}: {why}; the data goes through here"));
                Ok(false)
            }
        }
    }

    /// What one server is to send, and where to.
    fn server_copy(&self, sources: GetSources, destination: &PutDestination) -> ServerCopy {
        ServerCopy {
            sources,
            destination: destination.clone(),
            mirror: false,
            prefix: self.prefix(),
        }
    }

    /// The sources, as they are sent on.
    async fn relayed(
        &self,
        from: &Client,
        sources: GetSources,
    ) -> Result<RelayedSources, NetError> {
        let mut ids = Vec::new();
        for source in &self.sources.remotes {
            match from.stat(source.path.as_bytes(), false).await {
                Ok((entry, _)) if entry.kind == Kind::Dir => ids.push(entry.version.to_string()),
                // the transfer reports what is not there
                Ok(_) | Err(NetError::Refused { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(RelayedSources {
            sources,
            labels: self
                .sources
                .remotes
                .iter()
                .map(|source| source.written(&source.path))
                .collect(),
            prefix: self.prefix(),
            ids,
        })
    }

    /// What the user writes before a path at the source.
    fn prefix(&self) -> Vec<u8> {
        self.sources
            .remotes
            .first()
            .map(|s| s.prefix.clone().into())
            .unwrap_or_default()
    }

    /// Deletes what no source has, if that is wanted, as [`Deletion::run`].
    async fn delete(
        &self,
        (from, to): (&Arc<Client>, &Arc<Client>),
        (args, destination, options): (&TransferArgs, &PutDestination, &Options),
        reporter: &Reporter,
        copy: impl AsyncFn(Options) -> Result<(), NetError>,
    ) -> Result<(), NetError> {
        if !args.deletion.is_wanted() {
            return Ok(());
        }
        let deletion = Deletion {
            args: &args.deletion,
            destination: Place::There {
                client: to.clone(),
                base: destination.path.clone(),
            },
            label: self.destination.shown.as_bytes().to_vec(),
            pairs: pairs_of(from, &self.sources, &self.names, &options.view).await?,
        };
        deletion.run(options, reporter, copy).await
    }
}
