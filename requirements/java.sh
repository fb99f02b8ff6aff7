#!/bin/sh
# Succeeds if the Java of JAVA_HOME, or else of the PATH, can run Spark; otherwise prints what is missing.
java=${JAVA_HOME:+$JAVA_HOME/bin/}java
found=$("$java" -version 2>&1 | sed -n 's/.* version "\([0-9.]*\).*/\1/p')
case $found in
    17 | 17.* | 21 | 21.*) exit 0 ;;
    "") problem="No Java found as $java" ;;
    *) problem="$java is Java $found" ;;
esac
echo "$problem, and Spark needs 17 or 21: install one" \
    "(Debian, Ubuntu: apt-get install openjdk-17-jre-headless; macOS: brew install openjdk@17)" \
    "or set JAVA_HOME to it" >&2
exit 1
