#!/bin/sh
# What udhcpc runs: its lease becomes the interface's address.
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip addr replace "$ip/$mask" dev "$interface"
for via in $router; do
    ip route replace default via "$via" dev "$interface"
    break
done
