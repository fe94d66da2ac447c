package daemon

// storeFamilies are of the database file and of what waits to be written to it.
func storeFamilies() []family {
	return []family{
		gauge("etcd_mvcc_db_total_size_in_bytes", "Size of the database, free pages included.", func(r *reading) int64 { return r.store.Size() }),
		gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Size of the database without its free pages.", func(r *reading) int64 { return r.store.InUse() }),
		gauge("etcd_mvcc_db_open_read_transactions", "Reads of the database that are open.", func(r *reading) int { return r.store.OpenReads() }),
		gauge("etcd_server_quota_backend_bytes", "Size of the database that raises the alarm NOSPACE; negative if none does.", func(r *reading) int64 { return r.quota }),
		gauge("kvd_flush_pending_bytes", "Rows that are durable in the log and wait to be committed to the database.", func(r *reading) int { return r.replica.Pending() }),
		gauge("kvd_flush_pending_entries", "Entries of the log that are applied and not committed to the database.", func(r *reading) uint64 {
			return r.status.Applied - min(r.status.Stored, r.status.Applied)
		}),
	}
}

// quota is what the services make of the option.
func quota(bytes int64) int64 {
	if bytes == 0 {
		return 2 << 30
	}
	return bytes
}
