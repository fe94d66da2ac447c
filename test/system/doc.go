// Package system tests kvd as an administrator meets it: the packages, installed
// into a Debian that was booted with a real systemd, in a container of
// systemd-nspawn. Its tests assert on what systemctl, journalctl and the client
// print.
//
// "make test-system" runs them. They need root, debootstrap, systemd-nspawn and
// Debian's packages; the tree that the containers share is made once and kept in
// test/.cache/system.
package system
