//! `elect`.

use atoll_client::{Election, Leadership};
use clap::Args;
use serde_json::{Map, Value, json};

use super::connect::DataArgs;
use super::exit::{Ended, Problem};
use super::lock::tell;
use super::output::{Format, say};
use super::text::{Encoding, TextArgs};
use super::ward::{WardArgs, interrupted, seconds};

/// `atoll elect`.
#[derive(Args)]
pub(crate) struct ElectArgs {
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    text: TextArgs,
    /// The election
    name: String,
    /// What to proclaim when elected: campaigns, and leads until interrupted, or while a command
    /// runs
    #[arg(
        required_unless_present_any = ["leader", "observe"],
        conflicts_with_all = ["leader", "observe"]
    )]
    value: Option<String>,
    /// Only say who leads
    #[arg(long, conflicts_with = "observe")]
    leader: bool,
    /// Say who leads, and every change
    #[arg(long)]
    observe: bool,
    /// With --observe: end after so many
    #[arg(long, requires = "observe")]
    count: Option<u64>,
    /// Campaign at most so long, in seconds; without this, for as long as it takes
    #[arg(long, value_name = "SECONDS")]
    wait: Option<f64>,
    #[command(flatten)]
    ward: WardArgs,
}

impl ElectArgs {
    pub(crate) async fn run(self) -> Result<Ended, Problem> {
        let keyspace = self.data.keyspace().await?;
        let client = keyspace.client().clone();
        let mut election = keyspace.election(self.text.encoding().decode(&self.name)?);
        let Some(value) = &self.value else {
            return match self.observe {
                true => self.observe(&election).await,
                false => self.show_leader(&election).await,
            };
        };
        election = election.ttl(self.ward.ttl()?);
        if let Some(wait) = self.wait {
            election = election.wait(seconds("--wait", wait)?);
        }
        let value = self.text.encoding().decode(value)?;
        let leader = tokio::select! {
            leader = election.campaign(value) => leader,
            () = interrupted() => {
                client.close().await;
                return Err(Problem::Local("interrupted while campaigning".to_owned()));
            }
        };
        let leader = leader?;
        tell(&self.name, leader.holding().token().0, self.data.format());
        let ended = self.ward.run(leader.into_holding(), keyspace.name()).await;
        client.close().await;
        ended
    }

    async fn show_leader(&self, election: &Election) -> Result<Ended, Problem> {
        let leadership = election.leader().await?;
        let ended = if leadership.is_some() { Ended::Well } else { Ended::NotFound };
        self.print(leadership.as_ref())?;
        Ok(ended)
    }

    async fn observe(&self, election: &Election) -> Result<Ended, Problem> {
        let mut observation = election.observe();
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let news = tokio::select! {
                news = observation.next() => news?,
                () = interrupted() => return Ok(Ended::Well),
            };
            self.print(news.as_ref())?;
            left -= 1;
        }
        Ok(Ended::Well)
    }

    fn print(&self, leadership: Option<&Leadership>) -> Result<(), Problem> {
        let encoding = self.text.encoding();
        match (self.data.format(), leadership) {
            (Format::Json, leadership) => say(leadership_json(leadership, encoding)),
            (Format::Table, Some(leadership)) => {
                let value = encoding.show(&leadership.value);
                say(format!("{value}  (token {})", leadership.token))
            }
            (Format::Table, None) => {
                eprintln!("nobody leads");
                Ok(())
            }
        }
    }
}

fn leadership_json(leadership: Option<&Leadership>, encoding: Encoding) -> Value {
    let Some(leadership) = leadership else { return json!({ "leader": null }) };
    let mut object = Map::new();
    encoding.put_json(&mut object, "value", &leadership.value);
    object.insert("token".to_owned(), json!(leadership.token.0));
    object.insert("session".to_owned(), json!(leadership.session.0));
    json!({ "leader": object })
}
