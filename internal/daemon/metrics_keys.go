package daemon

// keyFamilies are of the keyspace and the leases.
func keyFamilies() []family {
	return []family{
		gauge("etcd_debugging_mvcc_current_revision", "The newest revision.", func(r *reading) int64 { return r.view.Keys.Revision() }),
		gauge("etcd_debugging_mvcc_compact_revision", "The revision of the last compaction, -1 before the first.", func(r *reading) int64 { return r.view.Keys.Compacted() }),
		gauge("etcd_debugging_mvcc_keys_total", "Keys that are not deleted.", func(r *reading) int { return r.view.Keys.Living() }),
		gauge("etcd_debugging_mvcc_total_put_size_in_bytes", "Bytes of the keys and values of all puts since the start.", func(r *reading) uint64 { return r.counts.PutBytes }),
		counter("etcd_mvcc_range_total", "Ranges since the start, those inside transactions included.", func(r *reading) uint64 { return r.counts.Ranges }),
		counter("etcd_mvcc_put_total", "Puts since the start, those inside transactions included.", func(r *reading) uint64 { return r.counts.Puts }),
		counter("etcd_mvcc_delete_total", "Deletes of ranges since the start, those inside transactions included.", func(r *reading) uint64 { return r.counts.Deletes }),
		counter("etcd_mvcc_txn_total", "Transactions of more than one operation since the start.", func(r *reading) uint64 { return r.counts.Txns }),
		counter("etcd_debugging_mvcc_db_compaction_keys_total", "Revisions of keys that compactions have removed since the start.", func(r *reading) uint64 { return r.counts.Removed }),
		counter("etcd_debugging_lease_granted_total", "Leases granted since the start.", func(r *reading) uint64 { return r.counts.Granted }),
		counter("etcd_debugging_lease_revoked_total", "Leases revoked since the start, those that had run out included.", func(r *reading) uint64 { return r.counts.Revoked }),
		gauge("kvd_leases", "Leases that are held.", func(r *reading) int { return r.view.Leases.Len() }),
		gauge("kvd_value_cache_bytes", "Values that are kept in memory after they were written to the database.", func(r *reading) int64 { return r.view.Keys.CacheBytes() }),
		gauge("kvd_value_cache_limit_bytes", "What kvd_value_cache_bytes is kept at or below.", func(r *reading) int64 { return r.cache }),
	}
}
