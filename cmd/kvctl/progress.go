package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"
)

const (
	redrawEvery  = 200 * time.Millisecond
	eraseLine    = "\r\x1b[K"
	defaultWidth = 80
	barWidth     = 24
)

// bar shows on a terminal how far long work has come. Elsewhere it does
// nothing. Whoever starts one clears it, before anything else is written.
type bar struct {
	to    io.Writer // nil: nobody looks
	label string
	total int64 // 0: nobody knows
	unit  *unit // nil: the work says nothing until it is done
	begun time.Time

	done  atomic.Int64
	stop  chan struct{}
	ended chan struct{}
}

// unit is what a bar counts.
type unit struct {
	text  func(int64) string
	rated bool // how many a second is worth telling
}

func inBytes() *unit {
	return &unit{func(n int64) string { return humanize.Bytes(uint64(max(n, 0))) }, true}
}

func counting(what string) *unit {
	return &unit{func(n int64) string { return humanize.Comma(n) + " " + what }, true}
}

func inTime() *unit {
	return &unit{func(n int64) string { return time.Duration(n).Truncate(time.Second).String() }, false}
}

// bar begins to show work of so many units.
func (p *program) bar(label string, total int64, u *unit) *bar {
	if !p.terminal {
		return &bar{}
	}
	b := &bar{to: p.errs, label: label, total: total, unit: u, begun: time.Now(), stop: make(chan struct{}), ended: make(chan struct{})}
	b.draw()
	go b.run()
	return b
}

func (b *bar) run() {
	defer close(b.ended)
	t := time.NewTicker(redrawEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			b.draw()
		case <-b.stop:
			return
		}
	}
}

// Write counts bytes that pass.
func (b *bar) Write(p []byte) (int, error) {
	b.add(int64(len(p)))
	return len(p), nil
}

func (b *bar) add(n int64) { b.done.Add(n) }

// clear leaves the terminal's line to whoever writes next.
func (b *bar) clear() {
	if b.to == nil {
		return
	}
	close(b.stop)
	<-b.ended
	fmt.Fprint(b.to, eraseLine)
	b.to = nil
}

func (b *bar) draw() {
	fmt.Fprint(b.to, eraseLine, cut(b.text(time.Since(b.begun)), widthOf(b.to)-1))
}

// text is the line after so much time.
func (b *bar) text(took time.Duration) string {
	done := b.done.Load()
	rate := float64(done) / max(took.Seconds(), 0.001)
	parts := []string{b.label}
	switch {
	case b.unit == nil:
		return fmt.Sprintf("%s  %s", b.label, took.Truncate(time.Second))
	case b.total <= 0:
		parts = append(parts, b.unit.text(done))
	default:
		share := min(float64(done)/float64(b.total), 1)
		full := int(share * barWidth)
		parts = append(parts,
			"["+strings.Repeat("=", full)+strings.Repeat(" ", barWidth-full)+"]",
			fmt.Sprintf("%3.0f%%", share*100),
			fmt.Sprintf("%s of %s", b.unit.text(done), b.unit.text(b.total)))
	}
	if !b.unit.rated {
		return strings.Join(parts, "  ")
	}
	parts = append(parts, b.unit.text(int64(rate))+"/s")
	if left := b.total - done; b.total > 0 && left > 0 && rate >= 1 && took > time.Second {
		parts = append(parts, (time.Duration(float64(left)/rate)*time.Second).Truncate(time.Second).String()+" left")
	}
	return strings.Join(parts, "  ")
}

// widthOf is how many columns a terminal has.
func widthOf(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 {
			return int(size.Col)
		}
	}
	return defaultWidth
}

// heightOf is how many lines a terminal has; 0 if there is no telling.
func heightOf(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
			return int(size.Row)
		}
	}
	return 0
}

// cut shortens text to so many runes.
func cut(text string, width int) string {
	if r := []rune(text); len(r) > width {
		return string(r[:max(width, 0)])
	}
	return text
}
