//! `lease`.

use atoll_client::{Bytes, LeaseId, Leases, Told};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::connect::DataArgs;
use super::exit::{Ended, Problem};
use super::output::{Format, Printer, say};
use super::text::{Encoding, TextArgs};
use super::ward::{interrupted, seconds};

/// `atoll lease`.
#[derive(Args)]
pub(crate) struct LeaseArgs {
    #[command(subcommand)]
    command: LeaseCommand,
}

#[derive(Subcommand)]
enum LeaseCommand {
    /// Make a lease that ends when nobody renews it
    Grant {
        #[command(flatten)]
        at: AtArgs,
        /// Its time to live, in seconds, at least 2
        ttl: f64,
        /// Its id; without this, one that is free
        #[arg(long)]
        id: Option<u64>,
    },
    /// End a lease: its keys go, at once
    Revoke {
        #[command(flatten)]
        at: AtArgs,
        /// Which
        id: u64,
    },
    /// Renew a lease until this is interrupted
    KeepAlive {
        #[command(flatten)]
        at: AtArgs,
        /// Which
        id: u64,
        /// Renew it once and end
        #[arg(long)]
        once: bool,
    },
    /// Which leases there are
    List {
        #[command(flatten)]
        at: AtArgs,
    },
    /// How long a lease still lives
    Show {
        #[command(flatten)]
        at: AtArgs,
        #[command(flatten)]
        text: TextArgs,
        /// Which
        id: u64,
        /// Also list its keys
        #[arg(long)]
        keys: bool,
    },
}

/// The shard of a lease.
#[derive(Args)]
struct AtArgs {
    #[command(flatten)]
    data: DataArgs,
    /// A key that the lease is for: leases live in the shard of their keys. Of no matter where the
    /// keyspace has one shard
    #[arg(long)]
    key: Option<String>,
}

impl AtArgs {
    async fn leases(&self) -> Result<Leases, Problem> {
        let keyspace = self.data.keyspace().await?;
        Ok(match &self.key {
            Some(key) => keyspace.leases_for(Bytes::from(key.clone())),
            None => keyspace.leases(),
        })
    }

    fn print(&self, object: Value, text: impl std::fmt::Display) -> Result<(), Problem> {
        match self.data.format() {
            Format::Json => say(object),
            Format::Table => say(text),
        }
    }
}

impl LeaseArgs {
    pub(crate) async fn run(self) -> Result<Ended, Problem> {
        match self.command {
            LeaseCommand::Grant { at, ttl, id } => grant(&at, ttl, id).await,
            LeaseCommand::Revoke { at, id } => {
                let deleted = at.leases().await?.revoke(LeaseId(id)).await?;
                let object = json!({ "lease": id, "deleted": deleted });
                at.print(object, format!("lease {id} ended, {deleted} keys deleted"))?;
                Ok(Ended::Well)
            }
            LeaseCommand::KeepAlive { at, id, once } => match once {
                true => renew(&at, id).await,
                false => keep(&at, id).await,
            },
            LeaseCommand::List { at } => list(&at).await,
            LeaseCommand::Show { at, text, id, keys } => {
                let keys = if keys { Told::Yes } else { Told::No };
                show(&at, text.encoding(), LeaseId(id), keys).await
            }
        }
    }
}

async fn grant(at: &AtArgs, ttl: f64, id: Option<u64>) -> Result<Ended, Problem> {
    let ttl = seconds("TTL", ttl)?;
    let (id, ttl) = at.leases().await?.grant_only(id.map(LeaseId), ttl).await?;
    let object = json!({ "lease": id.0, "ttl_ms": ttl.as_millis() as u64 });
    match at.data.format() {
        Format::Json => say(object)?,
        Format::Table => {
            eprintln!("lives for {} s without a renewal", ttl.as_secs_f64());
            say(id.0)?;
        }
    }
    Ok(Ended::Well)
}

async fn renew(at: &AtArgs, id: u64) -> Result<Ended, Problem> {
    let Some(ttl) = at.leases().await?.renew(LeaseId(id)).await? else {
        eprintln!("not found");
        return Ok(Ended::NotFound);
    };
    let object = json!({ "lease": id, "ttl_ms": ttl.as_millis() as u64 });
    at.print(object, format!("lease {id} lives for {} s from now", ttl.as_secs_f64()))?;
    Ok(Ended::Well)
}

async fn keep(at: &AtArgs, id: u64) -> Result<Ended, Problem> {
    let lease = at.leases().await?.keep(LeaseId(id)).await?;
    eprintln!("keeping lease {id} alive; Ctrl-C ends");
    tokio::select! {
        () = lease.lost() => {
            eprintln!("atoll: lease {id} ended");
            Ok(Ended::Lost)
        }
        () = interrupted() => Ok(Ended::Well),
    }
}

async fn list(at: &AtArgs) -> Result<Ended, Problem> {
    let mut printer = Printer::new();
    for id in at.leases().await?.list().await? {
        match at.data.format() {
            Format::Json => printer.line(json!({ "lease": id.0 }))?,
            Format::Table => printer.line(id.0)?,
        }
    }
    printer.flush()?;
    Ok(Ended::Well)
}

async fn show(at: &AtArgs, encoding: Encoding, id: LeaseId, keys: Told) -> Result<Ended, Problem> {
    let status = at.leases().await?.status(id, keys).await?;
    let keys: Vec<String> = status.keys.iter().map(|key| encoding.show(key)).collect();
    let (ttl, left) = (status.ttl.as_millis() as u64, status.left.as_millis() as u64);
    let object = json!({
        "lease": id.0,
        "ttl_ms": ttl,
        "left_ms": left,
        "attached": status.attached,
        "keys": keys,
    });
    let text = format!("{left} of {ttl} ms left, {} keys attached", status.attached);
    at.print(object, text)?;
    if at.data.format() == Format::Table {
        keys.iter().try_for_each(say)?;
    }
    Ok(Ended::Well)
}
