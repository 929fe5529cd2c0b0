//! Leases on disk: address to [`Entry`], one table.
//!
//! A DHCPACK leaves only after [`write`] has returned: a machine that was told
//! "yours for an hour" has that hour, whatever becomes of us.

use super::{Store, StoreError};
use crate::dhcp::book::Entry;
use crate::limits;
use redb::{ReadableTable, TableDefinition};
use std::net::Ipv4Addr;

const LEASES: TableDefinition<u32, &[u8]> = TableDefinition::new("leases");

/// Everything that was kept. A record that cannot be read is left out and logged:
/// its machine is given an address again when it asks.
///
/// # Errors
/// When the store fails.
pub fn read(store: &Store) -> Result<Vec<(Ipv4Addr, Entry)>, StoreError> {
    let txn = store.read()?;
    let table = match txn.open_table(LEASES) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    };
    let mut found = Vec::new();
    for record in table.iter()?.take(limits::DHCP_LEASES) {
        let (address, bytes) = record?;
        let address = Ipv4Addr::from(address.value());
        match serde_json::from_slice(bytes.value()) {
            Ok(entry) => found.push((address, entry)),
            Err(e) => tracing::warn!(%address, error = %e, "a lease cannot be read and is forgotten"),
        }
    }
    Ok(found)
}

/// Keeps these entries; returns when they are on disk.
///
/// # Errors
/// When the store is busy or fails; then none of them was kept.
pub async fn write(store: &Store, entries: Vec<(Ipv4Addr, Entry)>) -> Result<(), StoreError> {
    let rows: Vec<(u32, Vec<u8>)> = entries
        .into_iter()
        .map(|(address, entry)| {
            let bytes = serde_json::to_vec(&entry).map_err(|e| StoreError::Failed(e.to_string()))?;
            Ok((address.into(), bytes))
        })
        .collect::<Result<_, StoreError>>()?;
    store
        .write(move |txn| {
            let mut table = txn.open_table(LEASES)?;
            for (address, bytes) in &rows {
                table.insert(address, bytes.as_slice())?;
            }
            Ok(())
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::book::State;

    fn entry(until: u64) -> Entry {
        Entry { key: vec![1, 2, 3], mac: "52:54:00:00:00:01".parse().ok(), state: State::Leased, until }
    }

    #[tokio::test]
    async fn d21_leases_are_there_again_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.redb");
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 7), Ipv4Addr::new(10, 0, 0, 8));
        {
            let store = Store::open(&path).unwrap();
            assert_eq!(read(&store).unwrap(), []);
            write(&store, vec![(a, entry(1)), (b, entry(2))]).await.unwrap();
            write(&store, vec![(a, entry(3))]).await.unwrap();
        }
        assert_eq!(read(&Store::open(&path).unwrap()).unwrap(), [(a, entry(3)), (b, entry(2))]);
    }

    #[tokio::test]
    async fn a_damaged_record_costs_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s.redb")).unwrap();
        let good = Ipv4Addr::new(10, 0, 0, 7);
        write(&store, vec![(good, entry(1))]).await.unwrap();
        let damage = store.write(|txn| {
            txn.open_table(LEASES)?.insert(9, &b"{"[..])?;
            Ok(())
        });
        damage.await.unwrap();
        assert_eq!(read(&store).unwrap(), [(good, entry(1))]);
    }
}
