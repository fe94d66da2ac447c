package daemon

import (
	"bufio"
	"compress/gzip"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"kvd/internal/config"
)

// logFile opens a log on a file and returns how to read the directory.
func logFile(t *testing.T, c config.Log) (log *Logger, dir string) {
	t.Helper()
	dir = t.TempDir()
	c.Outputs, c.Format, c.Level = []string{filepath.Join(dir, "kvd.log")}, "json", slog.LevelInfo
	log, err := NewLogger(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	return log, dir
}

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// until waits for a state of the directory that a background goroutine makes.
func until(t *testing.T, what string, reached func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !reached(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// fillLog writes about so many MiB.
func fillLog(log *Logger, mib int) {
	line := strings.Repeat("x", 1023)
	for range mib << 10 {
		log.Info(line)
	}
}

func TestLogRotatesAtItsSize(t *testing.T) {
	log, dir := logFile(t, config.Log{Rotation: true, RotationJSON: `{"maxsize": 1, "maxbackups": 2}`})
	fillLog(log, 5)
	old := regexp.MustCompile(`^kvd-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{3}\.log$`)
	until(t, "the log and two old files", func() bool {
		all := names(t, dir)
		return len(all) == 3 && old.MatchString(all[0]) && old.MatchString(all[1]) && all[2] == "kvd.log"
	})
	for _, name := range names(t, dir) {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Size() > 1<<20 || info.Mode().Perm() != 0o640 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

func TestOldLogFilesAreCompressed(t *testing.T) {
	log, dir := logFile(t, config.Log{Rotation: true, RotationJSON: `{"maxsize": 1, "compress": true}`})
	log.Info("the first line")
	fillLog(log, 1)
	var found string
	until(t, "a compressed file", func() bool {
		all := names(t, dir)
		found = all[0]
		return len(all) == 2 && strings.HasSuffix(found, ".log.gz")
	})
	file, err := os.Open(filepath.Join(dir, found))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	plain, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	first, err := bufio.NewReader(plain).ReadString('\n')
	if err != nil || !strings.Contains(first, "the first line") {
		t.Errorf("%q, %v", first, err)
	}
}

func TestLogGoesOnInTheFileThatIsThere(t *testing.T) {
	c := config.Log{Rotation: true, RotationJSON: `{}`, Format: "json"}
	c.Outputs = []string{filepath.Join(t.TempDir(), "kvd.log")}
	for _, line := range []string{"one", "two"} {
		log, err := NewLogger(c)
		if err != nil {
			t.Fatal(err)
		}
		log.Info(line)
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	}
	file, err := os.Open(c.Outputs[0])
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if text, _ := io.ReadAll(file); strings.Count(string(text), "\n") != 2 {
		t.Errorf("%q", text)
	}
}

func TestLogFileThatCannotBeOpenedIsAFault(t *testing.T) {
	for _, rotation := range []bool{true, false} {
		c := config.Log{Rotation: rotation, RotationJSON: `{}`, Outputs: []string{filepath.Join(t.TempDir(), "absent", "kvd.log")}}
		if _, err := NewLogger(c); err == nil || !strings.Contains(err.Error(), "log-outputs: ") {
			t.Errorf("rotation %t: %v", rotation, err)
		}
	}
}
