#!/bin/sh
# After the files have gone. The data in /var/lib/kvd stays, even on purge: it
# is the administrator's. The user stays because the data is his.
set -e

if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
