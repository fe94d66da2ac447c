// Package packages installs the packages of "make package" where nothing is
// booted: in a copy of this machine's root that takes all writes for itself and
// is thrown away. It looks at what the maintainer scripts do and call, and cuts
// them short at every command that they run. What a booted host makes of them is
// test/system's.
package packages
