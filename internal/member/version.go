package member

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Version is major.minor.patch. The zero Version is one that is not known.
type Version struct{ Major, Minor, Patch uint }

// ParseVersion reads major.minor.patch, or major.minor with patch 0.
func ParseVersion(s string) (Version, error) {
	parts := strings.Split(s, ".")
	if len(parts) == 2 {
		parts = append(parts, "0")
	}
	if len(parts) != 3 {
		return Version{}, fmt.Errorf("version %q: want major.minor.patch", s)
	}
	var n [3]uint
	for i, part := range parts {
		v, err := strconv.ParseUint(part, 10, 32)
		if err != nil {
			return Version{}, fmt.Errorf("version %q: %w", s, err)
		}
		n[i] = uint(v)
	}
	return Version{n[0], n[1], n[2]}, nil
}

// String is major.minor.patch.
func (v Version) String() string {
	return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch)
}

// Known reports whether v is a version at all.
func (v Version) Known() bool { return v != Version{} }

// Compare is negative when v is older than w, zero when they are the same.
func (v Version) Compare(w Version) int {
	return cmp.Or(cmp.Compare(v.Major, w.Major), cmp.Compare(v.Minor, w.Minor), cmp.Compare(v.Patch, w.Patch))
}

// Line is the version without its patch: what a cluster agrees on.
func (v Version) Line() Version { return Version{Major: v.Major, Minor: v.Minor} }
