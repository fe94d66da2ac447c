#!/bin/sh
# Before the files go. dpkg says "remove" or "upgrade", rpm says 0 (removed) or
# 1 (another version is there already).
set -e

case "$1" in
remove | 0) ;;
*) exit 0 ;;
esac

if [ -d /run/systemd/system ]; then
	if command -v deb-systemd-invoke >/dev/null; then
		deb-systemd-invoke stop kvd.socket kvd-peer.socket kvd.service
	else
		systemctl --no-reload disable --now kvd.socket kvd-peer.socket kvd.service
	fi
fi
