//! Every call of the crate `etcd-client`, against the endpoints that are named.
//!
//! Each group says what it saw; the first answer that is not as etcd's ends the program.

mod coordinate;
mod keys;
mod operate;

use etcd_client::{Client, ConnectOptions, Error};

/// Calls that are not offered: their refusals must be ones that the client understands.
fn is_refused<T>(what: &str, answer: Result<T, Error>, text: &str) {
    match answer {
        Err(Error::GRpcStatus(status)) => {
            let said = format!("{:?}: {}", status.code(), status.message());
            assert!(said.contains(text), "{what}: {said}, not {text}");
        }
        Err(other) => panic!("{what}: {other}"),
        Ok(_) => panic!("{what} is not refused"),
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let endpoints: Vec<String> = std::env::args().skip(1).collect();
    assert!(!endpoints.is_empty(), "usage: etcd-client-calls ENDPOINT...");
    let options = ConnectOptions::new().with_require_leader(true);
    let mut client = Client::connect(&endpoints, Some(options)).await?;
    keys::puts_and_gets(&mut client).await?;
    keys::ranges(&mut client).await?;
    keys::deletes(&mut client).await?;
    keys::transactions(&mut client).await?;
    keys::compaction(&mut client).await?;
    keys::streams_of_ranges(&mut client).await;
    coordinate::watches(&mut client).await?;
    coordinate::leases(&mut client).await?;
    coordinate::locks(&mut client).await?;
    coordinate::elections(&mut client).await?;
    operate::members(&mut client, endpoints.len()).await?;
    operate::maintenance(&mut client, &endpoints).await?;
    operate::users(&mut client).await;
    operate::endpoints(&endpoints).await?;
    println!("all calls were answered as etcd answers them");
    Ok(())
}
