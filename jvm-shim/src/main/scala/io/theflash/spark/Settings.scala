package io.theflash.spark

import java.util.Locale

import scala.util.Try

import org.apache.spark.SparkEnv
import org.apache.spark.sql.connector.catalog.TableCatalog

/** The options of a read, by lower-case name. Python validates and interprets them; the jar uses
  * only those that locate the store and that control push-down.
  */
private[spark] final class Settings private (val texts: Map[String, String]) {
  lazy val place: Place =
    Place.of(texts, Settings.python(), Settings.conf("spark.theflash.idle"))

  lazy val client: Client = Client.of(place)

  /** Whether filters, aggregates and limits may be pushed down. */
  def pushdown: Boolean = !texts.get("pushdown").exists(_.trim.equalsIgnoreCase("false"))

  /** Resolves the options at the present time. */
  def reading(): Reading = Reading.of(client, sentOptions, timeoutMs)

  /** Timeout of a call that includes the wait for the timestamp (`wait_for_ts`). */
  private def timeoutMs: Int = {
    val waitS = texts.get("wait_for_ts").flatMap(text => Try(text.trim.toDouble).toOption)
    Client.ShortMs + (math.max(0.0, math.min(waitS.getOrElse(0.0), 1e6)) * 1000).toInt
  }

  /** The options that are sent to the store's process, without secrets. */
  private def sentOptions: Map[String, String] = texts -- Place.Secrets

  /** A copy with these options replaced or added. */
  def updated(others: Map[String, String]): Settings = Settings(texts ++ others)

  override def toString: String = s"Settings(${sentOptions.keys.toSeq.sorted.mkString(", ")})"
}

private[spark] object Settings {
  def apply(options: Map[String, String]): Settings =
    new Settings(options.map { case (name, text) => name.toLowerCase(Locale.ROOT) -> text })

  /** The options of a read, or of a table of Spark's own catalog, which `CREATE TABLE ... USING
    * theflash OPTIONS (...)` creates. Spark passes the properties of such a table. Its options are
    * among them with a prefix and once more without.
    */
  def ofTable(properties: Map[String, String]): Settings =
    if (!properties.contains(TableCatalog.PROP_PROVIDER)) Settings(properties)
    else
      Settings(properties.collect {
        case (name, text) if name.startsWith(TableCatalog.OPTION_PREFIX) =>
          name.stripPrefix(TableCatalog.OPTION_PREFIX) -> text
      })

  /** The Python that has the package: that of `configure_spark`, or that of Spark's workers. */
  def python(): String =
    conf("spark.theflash.python")
      .orElse(conf("spark.pyspark.python"))
      .orElse(sys.env.get("PYSPARK_PYTHON"))
      .getOrElse("python3")

  def conf(name: String): Option[String] = Option(SparkEnv.get).flatMap(_.conf.getOption(name))
}
