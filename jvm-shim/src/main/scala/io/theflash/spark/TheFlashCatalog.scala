package io.theflash.spark

import java.lang.ref.WeakReference
import java.time.{Instant, ZoneOffset}
import java.time.format.DateTimeFormatter
import java.util.{Collections, Map => JavaMap}

import scala.jdk.CollectionConverters._

import org.apache.spark.sql.catalyst.analysis.{
  AnalysisContext,
  NoSuchNamespaceException,
  NoSuchTableException
}
import org.apache.spark.sql.connector.catalog._
import org.apache.spark.sql.connector.expressions.Transform
import org.apache.spark.sql.util.CaseInsensitiveStringMap

/** A store in SQL: `SELECT ... FROM theflash.db.table VERSION AS OF 470613571969220631`.
  *
  * Set `spark.sql.catalog.NAME` to this class, and the source's options with this prefix:
  * `spark.sql.catalog.NAME.store` and others that apply to all tables, but not `token`, since the
  * JVM's command line and Spark's configuration show it: use `token_file`. Tables of one statement
  * without a timestamp of their own are read at the same one.
  */
class TheFlashCatalog extends TableCatalog with SupportsNamespaces {
  import TheFlashCatalog._

  private var catalogName = ""
  private var settings: Settings = _
  private val moments = new StatementMoments

  override def initialize(name: String, options: CaseInsensitiveStringMap): Unit = {
    if (options.containsKey("token")) Errors.planning {
      throw Errors.option("token", "is not for a catalog, whose options Spark shows; use token_file")
    }
    catalogName = name
    settings = Settings(options.asScala.toMap)
  }

  override def name(): String = catalogName

  override def listNamespaces(): Array[Array[String]] =
    databases.distinct.sorted.map(Array(_)).toArray

  override def listNamespaces(namespace: Array[String]): Array[Array[String]] =
    if (namespace.isEmpty) listNamespaces()
    else {
      checkNamespace(namespace)
      Array.empty
    }

  override def loadNamespaceMetadata(namespace: Array[String]): JavaMap[String, String] = {
    checkNamespace(namespace)
    Collections.emptyMap()
  }

  override def listTables(namespace: Array[String]): Array[Identifier] = {
    checkNamespace(namespace)
    tableNames.collect {
      case (database, table) if namespace.sameElements(Array(database)) =>
        Identifier.of(namespace, table)
    }.toArray
  }

  override def loadTable(ident: Identifier): Table =
    if (Moments.exists(settings.texts.contains)) table(ident, settings)
    else
      moments.current match {
        case Some(snapshotTs) => table(ident, at(SnapshotTs, snapshotTs))
        case None             =>
          val newest = table(ident, settings)
          moments.put(newest.snapshotTs)
          newest
      }

  override def loadTable(ident: Identifier, version: String): Table =
    table(ident, at("versionAsOf", version))

  /** Handles `TIMESTAMP AS OF`, whose text Spark parses in the session's time zone.
    *
    * @param timestamp
    *   microseconds since 1970 UTC
    */
  override def loadTable(ident: Identifier, timestamp: Long): Table = {
    val time = Instant.ofEpochSecond(
      Math.floorDiv(timestamp, 1000000L),
      Math.floorMod(timestamp, 1000000L) * 1000L
    )
    table(ident, at("timestampAsOf", Times.format(time)))
  }

  override def createTable(
      ident: Identifier,
      columns: Array[Column],
      partitions: Array[Transform],
      properties: JavaMap[String, String]
  ): Table = refuse()

  override def alterTable(ident: Identifier, changes: TableChange*): Table = refuse()

  override def dropTable(ident: Identifier): Boolean = refuse()

  override def renameTable(oldIdent: Identifier, newIdent: Identifier): Unit = refuse()

  override def createNamespace(namespace: Array[String], metadata: JavaMap[String, String]): Unit =
    refuse()

  override def alterNamespace(namespace: Array[String], changes: NamespaceChange*): Unit = refuse()

  override def dropNamespace(namespace: Array[String], cascade: Boolean): Boolean = refuse()

  private def refuse(): Nothing = Errors.planning(throw Errors.writing())

  /** The settings of a read at a timestamp of its own instead of the catalog's. */
  private def at(name: String, text: String): Settings =
    Settings(settings.texts -- Moments - "max_staleness" - "wait_for_ts" + (name -> text))

  private def table(ident: Identifier, moment: Settings): CatalogTable = {
    val name = ident.name()
    val database = ident.namespace() match {
      case Array(one) => one
      case _          => throw new NoSuchTableException(ident)
    }
    val chosen = moment.updated(Map("table" -> s"$database.$name"))
    new CatalogTable(chosen, Errors.planning(read(ident, chosen)))
  }

  private def read(ident: Identifier, chosen: Settings): Reading =
    try chosen.reading()
    catch {
      case error: TheFlashException if error.kind == Errors.TableNotFound =>
        throw new NoSuchTableException(ident)
    }

  private def tableNames: Seq[(String, String)] = Errors.planning {
    val moment = Moments
      .flatMap(settings.texts.get)
      .headOption
      .map(text => Messages.message("snapshotTs" -> Messages.text(text)))
      .getOrElse(Messages.message())
    val listing = settings.client.call("ListTables", Messages.message("moment" -> moment))
    listing.path("tables").asScala.toSeq.map { each =>
      val name = each.path("name").asText()
      val dot = name.indexOf('.')
      (name.take(dot), name.drop(dot + 1))
    }
  }

  private def databases: Seq[String] = tableNames.map(_._1)

  private def checkNamespace(namespace: Array[String]): Unit = namespace match {
    case Array(one) if databases.contains(one) =>
    case _                                     => throw new NoSuchNamespaceException(namespace)
  }
}

private object TheFlashCatalog {
  val SnapshotTs = "snapshot_ts"
  val Moments: Seq[String] = Seq(SnapshotTs, "versionasof", "timestampasof")
  val Times: DateTimeFormatter =
    DateTimeFormatter.ofPattern("uuuu-MM-dd HH:mm:ss.SSSSSSX").withZone(ZoneOffset.UTC)
}

/** A resolved table of a catalog. */
private[spark] final class CatalogTable(settings: Settings, reading: Reading)
    extends TheFlashTable(settings, () => reading, None) {
  val snapshotTs: String = reading.snapshotTs

  override def name(): String = reading.table

  /** Properties that DESCRIBE EXTENDED shows, beside the columns and their comments. */
  override def properties(): JavaMap[String, String] = {
    val keys = reading.columns.filter(_.isInHandle).map(_.field.name)
    val primaryKey = Option.when(keys.nonEmpty)("primary_key" -> keys.mkString(","))
    (Map("snapshot_ts" -> snapshotTs) ++ primaryKey).asJava
  }
}

/** Timestamps of the statements being analyzed: each is that of the first table looked up.
  *
  * Statements are identified by Spark's relation cache, of which each has its own.
  */
private final class StatementMoments {
  private val Most = 100
  private var recent = List.empty[(WeakReference[AnyRef], String)]

  def current: Option[String] = synchronized {
    statement.flatMap { now =>
      recent.collectFirst { case (each, snapshotTs) if each.get eq now => snapshotTs }
    }
  }

  def put(snapshotTs: String): Unit = synchronized {
    statement.foreach { now =>
      recent = (new WeakReference(now), snapshotTs) :: recent.filter(_._1.get != null).take(Most)
    }
  }

  private def statement: Option[AnyRef] =
    Option(AnalysisContext.get).filterNot(_.isDefault).map(_.relationCache)
}
