package store

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	bolt "go.etcd.io/bbolt"
)

type testRow struct{ key, value []byte }

// buildFile writes buckets into a new file.
func buildFile(t *testing.T, buckets map[string][]testRow, names []string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "db")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	writes := 0
	b := newBuild(file, 64<<10, func() error { writes++; return nil })
	var all []built
	for _, name := range names {
		tr := tree{build: b}
		for _, r := range buckets[name] {
			if err := tr.put(pageRow{key: r.key, value: r.value}); err != nil {
				t.Fatal(err)
			}
		}
		value, err := tr.bucket()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, built{name, value})
	}
	if err := b.finish(all); err != nil {
		t.Fatal(err)
	}
	if writes < 2 {
		t.Errorf("%d writes were told", writes)
	}
	return path
}

// holds compares what bbolt finds in a file, and has bbolt and us look at every
// page.
func holds(t *testing.T, path string, buckets map[string][]testRow) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := checkFile(t.Context(), file, path); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) error {
		for err := range tx.Check() {
			t.Errorf("bbolt finds: %v", err)
		}
		found := 0
		err := tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			found++
			rows := buckets[string(name)]
			err := b.ForEach(func(key, value []byte) error {
				if len(rows) == 0 || !bytes.Equal(rows[0].key, key) || !bytes.Equal(rows[0].value, value) {
					return fmt.Errorf("bucket %s: key %x of %d bytes, and %d rows are left", name, key, len(value), len(rows))
				}
				rows = rows[1:]
				return nil
			})
			if err == nil && len(rows) > 0 {
				err = fmt.Errorf("bucket %s: %d rows are missing", name, len(rows))
			}
			return err
		})
		if err == nil && found != len(buckets) {
			err = fmt.Errorf("%d buckets of %d", found, len(buckets))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// rowsOf makes n rows, in order, of sizes up to most.
func rowsOf(r *rand.Rand, n, most int) (rows []testRow) {
	for i := range n {
		value := make([]byte, r.IntN(most+1))
		for j := range value {
			value[j] = byte(i + j)
		}
		key := fmt.Appendf(nil, "%08d", i)
		rows = append(rows, testRow{append(key, value[:min(len(value), r.IntN(300))]...), value})
	}
	return rows
}

func TestABuiltFileIsBboltsWhateverItsRows(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	shapes := map[string]map[string][]testRow{
		"no bucket":         {},
		"an empty one":      {"empty": nil},
		"one row":           {"one": rowsOf(r, 1, 100)},
		"a row of a page":   {"one": {{[]byte("k"), make([]byte, os.Getpagesize()-headerBytes-rowBytes-1)}}},
		"a row and a byte":  {"one": {{[]byte("k"), make([]byte, os.Getpagesize()-headerBytes-rowBytes)}}},
		"rows of megabytes": {"big": rowsOf(r, 5, 3<<20)},
		"rows of nothing":   {"small": rowsOf(r, 20_000, 0)},
		"a deep tree":       {"deep": rowsOf(r, 60_000, 600)},
		"just within":       {"in": {{[]byte("k"), make([]byte, os.Getpagesize()/4-headerBytes-rowBytes-1)}}},
		"not any more":      {"out": {{[]byte("k"), make([]byte, os.Getpagesize()/4-headerBytes-rowBytes)}}},
		"large rows":        {"large": rowsOf(r, 400, 9000)},
		"some of each":      {"a": rowsOf(r, 3000, 50), "b": nil, "c": rowsOf(r, 100, 20_000), "d": rowsOf(r, 1, 1)},
	}
	many := map[string][]testRow{}
	for i := range 5000 {
		many[fmt.Sprintf("bucket %04d", i)] = rowsOf(r, i%3, 10)
	}
	shapes["many buckets"] = many
	for name, buckets := range shapes {
		t.Run(name, func(t *testing.T) {
			path := buildFile(t, buckets, sortedNames(buckets))
			holds(t, path, buckets)
			// bbolt goes on with it as with one of its own.
			db, err := bolt.Open(path, 0o600, &bolt.Options{NoFreelistSync: true})
			if err != nil {
				t.Fatal(err)
			}
			if n := db.Stats().FreePageN; n != 0 {
				t.Errorf("%d free pages", n)
			}
			more := map[string][]testRow{"zz behind": rowsOf(r, 500, 100)}
			for name, rows := range buckets {
				more[name] = rows
			}
			err = db.Update(func(tx *bolt.Tx) error {
				b, err := tx.CreateBucket([]byte("zz behind"))
				for _, row := range more["zz behind"] {
					if err == nil {
						err = b.Put(row.key, row.value)
					}
				}
				for name, rows := range buckets {
					kept := rows[:0:0]
					for i, row := range rows {
						if i%3 > 0 {
							kept = append(kept, row)
						} else if err == nil {
							err = tx.Bucket([]byte(name)).Delete(row.key)
						}
					}
					more[name] = kept
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			holds(t, path, more)
		})
	}
}

func sortedNames(buckets map[string][]testRow) []string {
	return slices.Sorted(maps.Keys(buckets))
}

// A file whose rows are out of order is damaged: no copy is made of it as if it
// were sound.
func TestABuiltFileTakesNoRowOutOfOrder(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	tr := tree{build: newBuild(file, 1<<20, func() error { return nil })}
	for _, c := range []struct {
		key   string
		taken bool
	}{{"a", true}, {"c", true}, {"b", false}, {"c", false}, {"d", true}} {
		err := tr.put(pageRow{key: []byte(c.key)})
		if _, flawed := errors.AsType[*flaw](err); flawed == c.taken {
			t.Errorf("%s: %v", c.key, err)
		}
	}
}
