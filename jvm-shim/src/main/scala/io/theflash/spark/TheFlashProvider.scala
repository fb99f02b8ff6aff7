package io.theflash.spark

import java.util.{Map => JavaMap}

import scala.jdk.CollectionConverters._

import org.apache.spark.sql.connector.catalog.{Table, TableProvider}
import org.apache.spark.sql.connector.expressions.Transform
import org.apache.spark.sql.sources.DataSourceRegister
import org.apache.spark.sql.types.StructType
import org.apache.spark.sql.util.CaseInsensitiveStringMap

/** `spark.read.format("theflash")`: what the Python data source of this name does, in columns.
  *
  * Spark makes one of these for each `load()`, and asks it for the schema and then for the table:
  * the timestamp is fixed with the first of them. A failure waits until somebody reads, for writing
  * makes a table too and has its own refusal.
  */
class TheFlashProvider extends TableProvider with DataSourceRegister {
  private var read: Option[(Map[String, String], Reading)] = None

  override def shortName(): String = "theflash"

  override def supportsExternalMetadata(): Boolean = true

  override def inferSchema(options: CaseInsensitiveStringMap): StructType = Errors.planning {
    reading(Settings(options.asScala.toMap)).schema
  }

  override def getTable(
      schema: StructType,
      partitioning: Array[Transform],
      properties: JavaMap[String, String]
  ): Table = {
    val settings = Settings(properties.asScala.toMap)
    new TheFlashTable(settings, () => reading(settings), Option(schema))
  }

  private def reading(settings: Settings): Reading = synchronized {
    read match {
      case Some((texts, found)) if texts == settings.texts => found
      case _ =>
        val found = settings.reading()
        read = Some((settings.texts, found))
        found
    }
  }
}
