package io.theflash.spark

import java.util.Locale

import scala.util.Try

import org.apache.spark.SparkEnv

/** The options of a read, by lower-case name. Python says what they come to, and which are none;
  * here are only those that say how to reach it, and that change how much is pushed down.
  */
private[spark] final class Settings private (val texts: Map[String, String]) {
  lazy val place: Place =
    Place.of(texts, Settings.python(), Settings.conf("spark.theflash.idle"))

  lazy val client: Client = Client.of(place)

  /** Whether filters, aggregates and limits may be left to the store. */
  def pushdown: Boolean = !texts.get("pushdown").exists(_.trim.equalsIgnoreCase("false"))

  /** What is read, as of now. */
  def reading(): Reading = Reading.of(client, told, timeoutMs)

  /** For a call that may wait as long as the read is to wait for its timestamp. */
  private def timeoutMs: Int = {
    val waitS = texts.get("wait_for_ts").flatMap(text => Try(text.trim.toDouble).toOption)
    Client.ShortMs + (math.max(0.0, math.min(waitS.getOrElse(0.0), 1e6)) * 1000).toInt
  }

  /** What the store's process is told: nothing secret. */
  private def told: Map[String, String] = texts -- Place.Secrets

  /** A value for each of these names, or what there was. */
  def updated(others: Map[String, String]): Settings = Settings(texts ++ others)

  override def toString: String = s"Settings(${told.keys.toSeq.sorted.mkString(", ")})"
}

private[spark] object Settings {
  def apply(options: Map[String, String]): Settings =
    new Settings(options.map { case (name, text) => name.toLowerCase(Locale.ROOT) -> text })

  /** The Python that has the package: that of `configure_spark`, or the one that Spark's workers run. */
  def python(): String =
    conf("spark.theflash.python")
      .orElse(conf("spark.pyspark.python"))
      .orElse(sys.env.get("PYSPARK_PYTHON"))
      .getOrElse("python3")

  def conf(name: String): Option[String] = Option(SparkEnv.get).flatMap(_.conf.getOption(name))
}
