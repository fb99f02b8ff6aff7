// The jar of Spark's `theflash` source, for those who work on it with sbt and an IDE.
// `make jar` builds the same with nothing but Java and pyspark; see jvm-shim/build.py.
ThisBuild / scalaVersion := "2.13.18"
ThisBuild / organization := "io.theflash"
ThisBuild / version := IO.read(file("pyspark_theflash/version.py")).split('"').reverse(1)

lazy val shim = (project in file("jvm-shim"))
  .settings(
    name := "theflash-spark-4.2",
    moduleName := "theflash-spark-4.2",
    libraryDependencies += "org.apache.spark" %% "spark-sql" % "4.2.0" % Provided,
    scalacOptions ++= Seq(
      "-deprecation", "-feature", "-unchecked", "-Werror", "-release", "17",
      "-Xlint:_,-byname-implicit", "-Wdead-code", "-Wunused:_", "-Wvalue-discard", "-Wnumeric-widen"
    )
  )
