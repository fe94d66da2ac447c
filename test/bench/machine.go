package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine describes where the figures come from.
type machine struct {
	CPU        string  `json:"cpu"`
	Cores      int     `json:"cores"`
	MemoryGB   float64 `json:"memory_gb"`
	Kernel     string  `json:"kernel"`
	FileSystem string  `json:"file_system"`
	FsyncP50us float64 `json:"fsync_p50_us"` // append of 4 KiB, then fdatasync
	FsyncP99us float64 `json:"fsync_p99_us"`
	Load       string  `json:"load"` // before the run, as in /proc/loadavg
	Go         string  `json:"go"`   // that built the generator
}

// describe looks at the machine and measures the disk that holds dir.
func describe(dir string) (machine, error) {
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return machine{}, err
	}
	meminfo, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return machine{}, err
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return machine{}, err
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return machine{}, err
	}
	m := machine{
		CPU:        textAfter(cpuinfo, "model name"),
		Cores:      runtime.NumCPU(),
		MemoryGB:   float64(numberAfter(meminfo, "MemTotal:")) * 1024 / 1e9,
		Kernel:     unix.ByteSliceToString(name.Sysname[:]) + " " + unix.ByteSliceToString(name.Release[:]),
		FileSystem: fileSystem(dir),
		Load:       strings.TrimSpace(string(load)),
		Go:         runtime.Version(),
	}
	m.FsyncP50us, m.FsyncP99us, err = fsyncLatency(dir)
	return m, err
}

// textAfter returns the text behind the first line's "label :".
func textAfter(text []byte, label string) string {
	for line := range bytes.Lines(text) {
		if rest, found := bytes.CutPrefix(line, []byte(label)); found {
			return strings.TrimSpace(strings.TrimLeft(string(rest), " \t:"))
		}
	}
	return ""
}

// fileSystem names the file system that holds dir.
func fileSystem(dir string) string {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return "unknown: " + err.Error()
	}
	switch fs.Type {
	case unix.EXT4_SUPER_MAGIC:
		return "ext4"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlay"
	case unix.TMPFS_MAGIC:
		return "tmpfs (memory: fsync costs nothing, so writes prove little)"
	}
	return fmt.Sprintf("type %#x", fs.Type)
}

// fsyncLatency measures what a write to a log costs on the disk of dir, in
// microseconds.
func fsyncLatency(dir string) (p50, p99 float64, err error) {
	const times = 200
	f, err := os.CreateTemp(dir, "fsync-")
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	defer f.Close()
	took := make([]int64, 0, times)
	for range times {
		at := time.Now()
		if _, err := f.Write(noise[:4096]); err != nil {
			return 0, 0, err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0, 0, err
		}
		took = append(took, int64(time.Since(at)))
	}
	slices.Sort(took)
	return micros(time.Duration(percentile(took, 50))), micros(time.Duration(percentile(took, 99))), nil
}

// newSubject looks at a binary.
func newSubject(name, path string) (*subject, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(content)
	version, err := exec.Command(path, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --version: %w", path, err)
	}
	lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(version)), "\n"), func(line string) bool {
		return strings.Contains(line, "Not provided") // an etcd built without its script
	})
	return &subject{
		Name:    name,
		path:    path,
		SHA256:  hex.EncodeToString(sum[:]),
		Version: strings.Join(lines, "; "),
		args:    etcdArgs,
		pprof:   true,
	}, nil
}
