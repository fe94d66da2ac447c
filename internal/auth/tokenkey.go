package auth

import (
	"encoding/binary"
	"fmt"
	"time"

	"kvd/internal/store"
)

// TokenKey is a secret that all members of the cluster share, for tokens that
// any of them can tell from a forged one. Whoever holds a copy of the database
// holds it, too, so it is replaced now and then.
type TokenKey struct {
	Made   time.Time // whole seconds
	Secret [32]byte
}

// The row of the keys, the newest first. It is in a bucket whose rows etcd reads
// by name: its members neither make it nor mind it.
const (
	tokenKeysRow   = "kvd_token_keys"
	tokenKeySize   = 8 + 32
	tokenKeysKept  = 2
	tokenKeysFloor = 8 // of a row without a key: when the last one was made
)

// Encode is the key as it is stored and sent.
func (k TokenKey) Encode() []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(k.Made.Unix())), k.Secret[:]...)
}

// DecodeTokenKey reads what Encode has written.
func DecodeTokenKey(b []byte) (k TokenKey, ok bool) {
	if len(b) != tokenKeySize {
		return k, false
	}
	k.Made = time.Unix(int64(binary.BigEndian.Uint64(b)), 0)
	copy(k.Secret[:], b[8:])
	return k, true
}

func (b *Book) loadTokenKeys(r store.Reader) error {
	row := r.Value(store.Meta, []byte(tokenKeysRow))
	if len(row) == tokenKeysFloor {
		b.floor = int64(binary.BigEndian.Uint64(row))
		return nil
	}
	for ; len(row) >= tokenKeySize; row = row[tokenKeySize:] {
		k, _ := DecodeTokenKey(row[:tokenKeySize])
		b.now.keys = append(b.now.keys, k)
	}
	if len(row) > 0 {
		return fmt.Errorf("load auth: row %s has %d bytes too many", tokenKeysRow, len(row))
	}
	return nil
}

// OfferKey takes a key that is newer than those that are known.
func (b *Book) OfferKey(k TokenKey, rows *store.Batch) {
	newest := b.floor
	if len(b.now.keys) > 0 {
		newest = b.now.keys[0].Made.Unix()
	}
	if k.Made.Unix() <= newest {
		return
	}
	keys := append([]TokenKey{k}, b.now.keys...)
	b.now.keys, b.shown = keys[:min(len(keys), tokenKeysKept)], nil
	var row []byte
	for _, k := range b.now.keys {
		row = append(row, k.Encode()...)
	}
	rows.Put(store.Meta, []byte(tokenKeysRow), row)
}

// dropKeys makes all tokens void. No key comes back that was known before.
func (b *Book) dropKeys(rows *store.Batch) {
	if len(b.now.keys) == 0 {
		return
	}
	b.floor, b.now.keys = b.now.keys[0].Made.Unix(), nil
	rows.Put(store.Meta, []byte(tokenKeysRow), binary.BigEndian.AppendUint64(nil, uint64(b.floor)))
}

// TokenKeys are the secrets of tokens, the newest first; read-only.
func (v *View) TokenKeys() []TokenKey { return v.keys }
