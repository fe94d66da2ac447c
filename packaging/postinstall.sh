#!/bin/sh
# After unpacking. dpkg calls it "configure [old version]", rpm calls it 1
# (installed) or 2 (upgraded).
#
# The service is not started by a first installation: its first start would
# found a cluster of one member before anybody has configured it.
set -e

case "$1" in
configure | 1 | 2) ;;
*) exit 0 ;; # dpkg undoes something: what is there stays
esac

if command -v systemd-sysusers >/dev/null; then
	systemd-sysusers kvd.conf
fi
if command -v systemd-tmpfiles >/dev/null; then
	systemd-tmpfiles --create kvd.conf
fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	if [ "$1" = 2 ] || [ -n "${2:-}" ]; then
		# An upgrade: what runs goes on with the new version.
		if command -v deb-systemd-invoke >/dev/null; then
			deb-systemd-invoke try-restart kvd.service
		else
			systemctl try-restart kvd.service
		fi
	fi
fi
