package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// bar shows on a terminal how far a long work is.
type bar struct {
	out   io.Writer
	now   func() time.Time
	begun time.Time
	shown time.Time
	what  string
	width int // of what stands on the line
}

const (
	barEvery = 100 * time.Millisecond
	barAfter = 300 * time.Millisecond // what is quicker needs no bar
	barCells = 30
)

// show draws the bar; a work that is done leaves no trace.
func (b *bar) show(what string, done, total int64) {
	now := b.now()
	if what != b.what {
		b.clear()
		b.what, b.begun = what, now
	}
	if done >= total {
		b.clear()
		return
	}
	if now.Sub(b.begun) < barAfter || now.Sub(b.shown) < barEvery {
		return
	}
	b.shown = now
	full := int(done * barCells / total)
	line := fmt.Sprintf("%s [%s%s] %3d %%", what, strings.Repeat("#", full), strings.Repeat(".", barCells-full), done*100/total)
	if left := time.Duration(float64(now.Sub(b.begun)) / float64(max(done, 1)) * float64(total-done)); done > 0 && left > time.Second {
		line += fmt.Sprintf(", %v left", left.Round(time.Second))
	}
	fmt.Fprintf(b.out, "\r%-*s", b.width, line)
	b.width = max(b.width, len(line))
}

// clear empties the line.
func (b *bar) clear() {
	if b.width > 0 {
		fmt.Fprintf(b.out, "\r%s\r", strings.Repeat(" ", b.width))
		b.width = 0
	}
}
