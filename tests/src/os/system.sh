#!/bin/sh
# The test system: finds its configuration, says on the console what it found, reports in, stays.
who=stoker-os
. /lib.sh

say "started, $(uname -r), $([ -d /sys/firmware/efi ] && echo UEFI || echo BIOS)"
# The name of the firmware's entry that started this.
vars=/sys/firmware/efi/efivars
if [ -d $vars ] && mount -t efivarfs efivarfs $vars; then
    current=$(tail -c 2 $vars/BootCurrent-* | od -An -tx1 | awk '{ print toupper($2 $1) }')
    say "boot entry $current: $(tail -c +11 "$vars/Boot$current"-* | tr -d '\000' | strings | head -n 1)"
fi
disks >/dev/null
for path in /sys/block/*/*/partition; do
    [ -e "$path" ] || continue
    part=${path%/partition}
    say "partition ${part##*/} from $(cat "$part/start") of $(cat "$part/size") sectors"
done

# Where the report goes, and the configuration: what the installer baked in,
# else what a data source tells.
url=$(argument stoker.report)
source=none hostname= config=
mkdir -p /mnt
if [ -n "$url" ]; then
    source=installer
    mount -t vfat -o ro "$(labelled STOKEROS)" /mnt && config=/mnt/config
elif device=$(labelled CIDATA) && [ -n "$device" ]; then
    source=NoCloud
    mount -t vfat -o ro "$device" /mnt || mount -t iso9660 -o ro "$device" /mnt
    config=/mnt/user-data
    hostname=$(sed -n 's/^local-hostname: *//p' /mnt/meta-data | tr -d "\"'")
    url=$(sed -n 's/^stoker_report_url: *//p' /mnt/meta-data | tr -d "\"'")
elif device=$(labelled config-2) && [ -n "$device" ]; then
    source=ConfigDrive
    mount -t vfat -o ro "$device" /mnt || mount -t iso9660 -o ro "$device" /mnt
    config=/mnt/openstack/latest/user_data
    meta=/mnt/openstack/latest/meta_data.json
    hostname=$(sed -n 's/.*"hostname": *"\([^"]*\)".*/\1/p' $meta)
    url=$(sed -n 's/.*"stoker_report_url": *"\([^"]*\)".*/\1/p' $meta)
fi
# The last resort: a line of the configuration itself.
if [ -z "$url" ] && [ -s "$config" ]; then
    url=$(sed -n 's/.*stoker\.report=\([^ "]*\).*/\1/p' "$config" | head -n 1)
fi
digest=none
[ -s "$config" ] && digest=$(sha256sum "$config" | cut -d ' ' -f 1)
say "up: source=$source hostname=${hostname:-none} config=$digest"
umount /mnt 2>/dev/null

if [ -n "$url" ]; then
    if network && report "$url" running; then say "reported running"; fi
else
    say "no report: nothing says where to"
fi
while :; do sleep 3600; done
