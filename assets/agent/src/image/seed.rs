//! The configuration of the installed system, as it looks for it itself: a
//! small file system with a label that cloud-init and its like know. Pure.

use protocol::report::{DataSource, ImageOrder};
use serde_json::json;
use std::io::{self, Cursor, Write as _};

/// The smallest volume, bytes: FAT makes no sense below.
const SMALLEST: u64 = 4 << 20;
/// A volume's sector, bytes.
const SECTOR: u64 = 512;

/// The name of the data source's partition in the table.
pub const PARTITION: &str = "stoker-config";

/// A volume to be written into a partition of its own; none where the order wants none.
///
/// # Errors
/// When it cannot be made.
pub fn volume(order: &ImageOrder, user_data: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let (label, files) = match order.data_source {
        DataSource::None => return Ok(None),
        DataSource::NoCloud => (*b"CIDATA     ", no_cloud(order, user_data)),
        DataSource::ConfigDrive => (*b"config-2   ", config_drive(order, user_data)),
    };
    let content: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    let size = (content as u64 * 2).next_multiple_of(1 << 20).max(SMALLEST);
    let mut volume = Cursor::new(vec![0; usize::try_from(size).map_err(io::Error::other)?]);
    let sectors = u32::try_from(size / SECTOR).map_err(io::Error::other)?;
    let options = fatfs::FormatVolumeOptions::new().volume_label(label).total_sectors(sectors);
    fatfs::format_volume(&mut volume, options)?;
    {
        let system = fatfs::FileSystem::new(&mut volume, fatfs::FsOptions::new())?;
        let root = system.root_dir();
        for (path, bytes) in files {
            for (end, _) in path.match_indices('/') {
                root.create_dir(path.get(..end).unwrap_or_default())?;
            }
            root.create_file(path)?.write_all(&bytes)?;
        }
    }
    Ok(Some(volume.into_inner()))
}

/// cloud-init's NoCloud. Without `network-config` it asks by DHCP on the interface that has a link, as
/// the machine did to get here.
fn no_cloud(order: &ImageOrder, user_data: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut meta = format!("instance-id: {}\n", quoted(&order.instance_id));
    if !order.hostname.is_empty() {
        meta += &format!("local-hostname: {}\n", quoted(&order.hostname));
    }
    if !order.report_url.is_empty() {
        meta += &format!("stoker_report_url: {}\n", quoted(&order.report_url.0));
    }
    vec![("meta-data", meta.into_bytes()), ("user-data", user_data.to_vec())]
}

/// OpenStack's config drive, version 2.
fn config_drive(order: &ImageOrder, user_data: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut meta = json!({ "uuid": order.instance_id });
    if !order.hostname.is_empty() {
        meta["hostname"] = json!(order.hostname);
        meta["name"] = json!(order.hostname);
    }
    if !order.report_url.is_empty() {
        meta["meta"] = json!({ "stoker_report_url": order.report_url.0 });
    }
    let files = [("meta_data.json", meta.to_string().into_bytes()), ("user_data", user_data.to_vec())];
    let [meta, user] = files.map(|(_, bytes)| bytes);
    vec![("openstack/latest/meta_data.json", meta), ("openstack/latest/user_data", user)]
}

/// A text of JSON is one of YAML (YAML 1.2, 1.3).
fn quoted(text: &str) -> String {
    json!(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::report::Hidden;
    use std::io::Read as _;

    fn read(volume: Vec<u8>, path: &str) -> String {
        let system = fatfs::FileSystem::new(Cursor::new(volume), fatfs::FsOptions::new()).unwrap();
        let mut text = String::new();
        system.root_dir().open_file(path).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    fn order(data_source: DataSource) -> ImageOrder {
        ImageOrder {
            data_source,
            hostname: "n1".into(),
            instance_id: "i-\"7".into(),
            report_url: Hidden("http://c/report?uuid=u&token=t".into()),
            ..ImageOrder::default()
        }
    }

    #[test]
    fn no_cloud_is_what_cloud_init_looks_for() {
        let volume = volume(&order(DataSource::NoCloud), b"#cloud-config\n").unwrap().unwrap();
        assert_eq!(volume.len(), 4 << 20);
        assert_eq!(read(volume.clone(), "user-data"), "#cloud-config\n");
        assert_eq!(
            read(volume.clone(), "meta-data"),
            "instance-id: \"i-\\\"7\"\nlocal-hostname: \"n1\"\nstoker_report_url: \"http://c/report?uuid=u&token=t\"\n"
        );
        let system = fatfs::FileSystem::new(Cursor::new(volume), fatfs::FsOptions::new()).unwrap();
        assert_eq!(system.volume_label_as_bytes(), b"CIDATA");
    }

    #[test]
    fn a_config_drive_is_what_cloud_init_looks_for() {
        let big = vec![b'x'; 5 << 20];
        let volume = volume(&order(DataSource::ConfigDrive), &big).unwrap().unwrap();
        assert_eq!(volume.len(), 11 << 20, "as large as it takes");
        let meta: serde_json::Value =
            serde_json::from_str(&read(volume.clone(), "openstack/latest/meta_data.json")).unwrap();
        assert_eq!((meta["uuid"].as_str(), meta["hostname"].as_str()), (Some("i-\"7"), Some("n1")));
        assert_eq!(meta["meta"]["stoker_report_url"], "http://c/report?uuid=u&token=t");
        assert_eq!(read(volume.clone(), "openstack/latest/user_data").len(), big.len());
        let system = fatfs::FileSystem::new(Cursor::new(volume), fatfs::FsOptions::new()).unwrap();
        assert_eq!(system.volume_label_as_bytes(), b"config-2");
    }

    #[test]
    fn none_is_none() {
        assert_eq!(volume(&order(DataSource::None), b"").unwrap(), None);
    }
}
