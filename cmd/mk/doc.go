// Mk maintains related files.
package main
