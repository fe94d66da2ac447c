package wal

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"kvd/internal/vfs"
)

const (
	snapSuffix   = ".snap"
	snapDBSuffix = ".snap.db"
)

// WriteSnap writes a .snap file into dir: the membership at a snapshot of the
// log, for etcd 3.6 and older and for tools. Nothing of ours reads it. It must
// be there before MarkSnapshot for the same index.
func WriteSnap(dir string, s *raftpb.Snapshot) error { return writeSnap(vfs.OS{}, dir, s) }

func writeSnap(files vfs.FS, dir string, s *raftpb.Snapshot) error {
	if raft.IsEmptySnap(s) {
		return errors.New("write snapshot file: the snapshot has no index")
	}
	name := fmt.Sprintf("%016x-%016x%s", s.GetMetadata().GetTerm(), s.GetMetadata().GetIndex(), snapSuffix)
	content, err := snapEnvelope(s)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	// A name with tmp in front is removed by whoever starts on the directory.
	temp := filepath.Join(dir, "tmp-"+name)
	if err := writeSynced(files, temp, content); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := files.Rename(temp, filepath.Join(dir, name)); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return files.SyncDir(dir)
}

// CheckSnap says what is wrong with a .snap file.
func CheckSnap(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if len(content) == 0 {
		return errors.New("it is empty")
	}
	var crc uint64
	var data []byte
	for len(content) > 0 {
		field, kind, n := protowire.ConsumeTag(content)
		if n < 0 {
			return errors.New("it is cut short, or no such file")
		}
		content = content[n:]
		switch {
		case field == 1 && kind == protowire.VarintType:
			crc, n = protowire.ConsumeVarint(content)
		case field == 2 && kind == protowire.BytesType:
			data, n = protowire.ConsumeBytes(content)
		default:
			n = protowire.ConsumeFieldValue(field, kind, content)
		}
		if n < 0 {
			return errors.New("it is cut short, or no such file")
		}
		content = content[n:]
	}
	if sum := crc32.Checksum(data, castagnoli); uint64(sum) != crc {
		return fmt.Errorf("its CRC is %08x, and that of its content %08x", crc, sum)
	}
	return proto.Unmarshal(data, &raftpb.Snapshot{})
}

// snapEnvelope is the file's content: field 1 the CRC, field 2 the snapshot.
func snapEnvelope(s *raftpb.Snapshot) ([]byte, error) {
	data, err := proto.Marshal(s)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, len(data)+16)
	b = appendVarintField(b, 1, uint64(crc32.Checksum(data, castagnoli)))
	return protowire.AppendBytes(append(b, 2<<3|byte(protowire.BytesType)), data), nil
}

func writeSynced(files vfs.FS, path string, content []byte) (err error) {
	f, err := files.Open(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.WriteAt(content, 0); err != nil {
		return err
	}
	return f.Sync()
}

// PurgeSnaps deletes the oldest .snap files in dir beyond keep, and the same
// of .snap.db files.
func PurgeSnaps(dir string, keep int) error {
	files := vfs.OS{}
	names, err := files.List(dir)
	if err != nil {
		return fmt.Errorf("purge snapshot files: %w", err)
	}
	for _, suffix := range []string{snapSuffix, snapDBSuffix} {
		var found []string // names sort by age
		for _, name := range names {
			if strings.HasSuffix(name, suffix) {
				found = append(found, name)
			}
		}
		for _, name := range found[:max(0, len(found)-keep)] {
			if err := files.Remove(filepath.Join(dir, name)); err != nil {
				return fmt.Errorf("purge snapshot files: %w", err)
			}
		}
	}
	return nil
}
