//! The flags that every client command has.

use std::time::Duration;

use atoll_client::{Client, Keyspace, Options};
use clap::Args;

use super::exit::Problem;
use super::output::Format;

/// Where the cluster is and how to answer.
#[derive(Args, Clone, Debug)]
pub(crate) struct ConnectArgs {
    /// Nodes to ask first, host:port, separated by commas
    #[arg(
        long,
        env = "ATOLL_ENDPOINTS",
        default_value = "127.0.0.1:7400",
        value_delimiter = ',',
        value_name = "HOST:PORT"
    )]
    endpoints: Vec<String>,
    /// How long one call may take, retries included, in seconds
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    timeout: f64,
    /// For people or for programs
    #[arg(long, short = 'o', value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

impl ConnectArgs {
    pub(crate) async fn client(&self) -> Result<Client, Problem> {
        self.client_with(Options::default()).await
    }

    pub(crate) async fn client_with(&self, options: Options) -> Result<Client, Problem> {
        let timeout = Duration::try_from_secs_f64(self.timeout).map_err(|error| {
            Problem::usage(format!("--timeout {} is no time to wait: {error}", self.timeout))
        })?;
        let is_address = |at: &str| {
            at.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
            })
        };
        if let Some(bad) = self.endpoints.iter().find(|at| !is_address(at)) {
            let text =
                format!("--endpoints \"{bad}\" is not host:port, for example 127.0.0.1:7400");
            return Err(Problem::usage(text));
        }
        let options = Options { timeout, ..options };
        Ok(Client::builder().addresses(&self.endpoints).options(options).connect().await?)
    }
}

/// The connection and a keyspace.
#[derive(Args, Clone, Debug)]
pub(crate) struct DataArgs {
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    /// The keyspace
    #[arg(long, short = 'k', env = "ATOLL_KEYSPACE", default_value = "default")]
    pub(crate) keyspace: String,
}

impl DataArgs {
    pub(crate) async fn keyspace(&self) -> Result<Keyspace, Problem> {
        Ok(self.connect.client().await?.keyspace(&self.keyspace))
    }

    pub(crate) fn format(&self) -> Format {
        self.connect.output
    }
}
